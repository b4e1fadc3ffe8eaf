# Everything but the Python modules, at its place below DESTDIR. Used by the Makefile's
# `install`, and by debian/rules, so that both lay down the same.

PREFIX ?= /usr
BINDIR ?= $(PREFIX)/bin
SHARE := $(DESTDIR)$(PREFIX)/share
LIB := $(DESTDIR)/usr/lib
ETC := $(DESTDIR)/etc
DOC := $(SHARE)/doc/olpc-update-query
BUILT ?= build/share
SYSTEM_PYTHON ?= /usr/bin/python3
COMMANDS := olpc-update-query:__main__ olpc-update:cli.update olpc-update-admin:cli.admin

UNITS = $(wildcard systemd/olpc-*.service systemd/olpc-*.timer systemd/olpc-*.path)
BUS_POLICY = $(wildcard systemd/org.*.conf)
BUS_SERVICES = $(wildcard systemd/org.*.service)

# install-files: copy, with the units' commands where they really are
.PHONY: install-files
install-files:
	install -d $(LIB)/systemd/system $(LIB)/sysusers.d $(LIB)/tmpfiles.d $(DOC)
	install -d $(ETC)/cron.d $(LIB)/NetworkManager/dispatcher.d $(SHARE)
	install -d $(addprefix $(ETC)/olpc-update-query/,config.d hooks.d keys.d)
	install -m 644 $(UNITS) $(LIB)/systemd/system
	install -m 644 systemd/olpc-update-query.sysusers \
	  $(LIB)/sysusers.d/olpc-update-query.conf
	install -m 644 systemd/olpc-update-query.tmpfiles \
	  $(LIB)/tmpfiles.d/olpc-update-query.conf
	install -m 644 cron/olpc-update-query $(ETC)/cron.d
	install -m 755 nm-dispatcher/90-olpc-update-query $(LIB)/NetworkManager/dispatcher.d
	install -d $(DESTDIR)$(BINDIR)
	install -m 755 cron/olpc-update-query-wake $(DESTDIR)$(BINDIR)
	sed -i 's| olpc-update-query-wake | $(BINDIR)/olpc-update-query-wake |' \
	  $(ETC)/cron.d/olpc-update-query \
	  $(LIB)/NetworkManager/dispatcher.d/90-olpc-update-query
	install -m 644 docs/config.sample.toml $(DOC)
	cp -R --no-preserve=ownership $(BUILT)/. $(SHARE)
	install -d $(SHARE)/dbus-1/system.d $(SHARE)/dbus-1/system-services
	$(if $(BUS_POLICY),install -m 644 $(BUS_POLICY) $(SHARE)/dbus-1/system.d)
	$(if $(BUS_SERVICES),install -m 644 $(BUS_SERVICES) $(SHARE)/dbus-1/system-services)
	sed -i 's|/usr/bin/olpc-update|$(BINDIR)/olpc-update|' \
	  $(addprefix $(LIB)/systemd/system/,$(notdir $(UNITS))) \
	  $(addprefix $(SHARE)/dbus-1/system-services/,$(notdir $(BUS_SERVICES)))
	install -d $(LIB)/dracut/modules.d
	$(if $(wildcard dracut/*),cp -R --no-preserve=ownership dracut/. $(LIB)/dracut/modules.d)

# install-commands: the commands, which import nothing before they know whether a query is
# due; what pip and pybuild write imports `re` first, at half the price of Python
.PHONY: install-commands
install-commands:
	install -d $(DESTDIR)$(BINDIR)
	for command in $(COMMANDS); do \
	  file=$(DESTDIR)$(BINDIR)/$${command%:*}; \
	  printf '#!%s\nfrom olpc_update_query.%s import main\n\nmain()\n' \
	    $(SYSTEM_PYTHON) $${command#*:} >$$file; \
	  chmod 755 $$file; \
	done
