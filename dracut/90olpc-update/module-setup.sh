#!/bin/bash
# The part of the initramfs that chooses the build: docs/boot.md says how to install it.

check() { # only where it is asked for: add_dracutmodules+=" olpc-update "
    return 255
}

depends() {
    echo base
}

# shellcheck disable=SC2154 # dracut sets moddir
install() {
    inst_multiple cat cp grep ln mkdir mount mv readlink rm sync uname
    inst_multiple -o reboot
    inst_simple "$moddir/olpc-update-boot" /sbin/olpc-update-boot
    inst_hook pre-pivot 50 "$moddir/olpc-update-hook.sh"
}
