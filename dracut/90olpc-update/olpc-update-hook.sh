#!/bin/sh
# Sourced by dracut, with its functions, before the new root is entered.

olpc-update-boot "$NEWROOT" || die "olpc-update: there is nothing to boot"
