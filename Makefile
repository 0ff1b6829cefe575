# SPDX-License-Identifier: ISC
#
# Builds tls.so: for the SER that is installed (make), for a source tree of it (make SER_SRC=DIR), or
# inside such a tree, when this folder is its src/modules/tls (make modules modules=modules/tls there,
# or make here). `make help` lists the targets and variables.

SSL_CFLAGS ?= $(shell pkg-config --cflags libssl libcrypto 2>/dev/null)
SSL_LIBS ?= $(shell pkg-config --libs libssl libcrypto 2>/dev/null || echo -lssl -lcrypto)
ZLIB_LIBS ?= $(shell pkg-config --libs zlib 2>/dev/null || echo -lz)
# Only what tls.map names leaves the module, and it never binds to another module's functions.
# (The host's own are undefined until it loads the module.)
LINK_LIMITS = -Wl,--version-script=tls.map -Wl,-Bsymbolic

ifeq ($(words $(wildcard ../../Makefile.defs ../../Makefile.modules)),2)

# ---------------------------------------------------------------- inside a host tree
include ../../Makefile.defs
auto_gen =
NAME = tls.so

INCLUDES += -I../..
DEFS += -pthread -fvisibility=hidden $(SSL_CFLAGS)
tls_mod.o: DEFS += -fvisibility=default
LIBS += $(LINK_LIMITS) -pthread $(SSL_LIBS) $(ZLIB_LIBS) $(TLS_EXTRA_LIBS)
MOD_INSTALL_CFGS = tls.cfg

include ../../Makefile.modules

else

# ---------------------------------------------------------------- on its own
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

B := build
CFLAGS ?= -O2 -g
CLANG ?= clang
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
FUZZ_SECONDS ?= 20
PYTEST_ARGS ?= -q
# Factor on how long the scenarios wait at most: the machine may have other work.
export TLS_TEST_SLOW ?= 2
DEPS ?= yes
WARN := -Wall -Wextra
WARN_LINT := $(WARN) -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wvla -Wformat=2 -Wold-style-definition -Wimplicit-fallthrough
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2);)

SRCS := $(sort $(wildcard tls_*.c fixed_c_zlib.c))
UNIT_SRCS := $(sort $(wildcard test/unit/*.c))
UNIT_TESTS := $(filter test/unit/test_%,$(UNIT_SRCS))
UNIT_HELPERS := $(filter-out $(UNIT_TESTS),$(UNIT_SRCS))
FUZZ_TESTS := $(sort $(wildcard test/fuzz/fuzz_*.c))

# Targets that first install what they need; the work is then done by a second make.
NEED_DEPS := check demo run bench deps
# Targets that need the host's headers.
HOST_GOALS := $(filter-out $(NEED_DEPS) clean distclean help doc style,$(or $(MAKECMDGOALS),all))

ifneq ($(HOST_GOALS),)
# Files that change exactly when what they say changes.
record = $(if $(filter-out $(file <$(1)),$(2))$(filter-out $(2),$(file <$(1))),$(shell mkdir -p $(dir $(1)))$(file >$(1),$(2)))
host_bin := $(shell PATH=$$PATH:/usr/sbin; command -v $(or $(SER_BIN),kamailio))
host_key := src:$(SER_SRC) bin:$(if $(host_bin),$(shell stat -L -c %n:%s:%Y:%Z $(host_bin))) cc:$(CC)
$(call record,$B/host/key,$(host_key))
include $B/host/config.mk
build_key := $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(WERROR) $(SSL_CFLAGS) $(SSL_LIBS) $(ZLIB_LIBS) $(TLS_EXTRA_LIBS)
$(call record,$B/key,$(build_key))
endif

$B/host/config.mk: $B/host/key tools/host-source tools/host-flags
	@src=$$(SER_SRC='$(SER_SRC)' SER_BIN='$(SER_BIN)' tools/host-source) && \
	SER_SRC='$(SER_SRC)' SER_BIN='$(SER_BIN)' CC='$(CC)' \
		tools/host-flags "$$src" $B/host/flags.h $@ && \
	echo "HOST_SRC := $$src" >>$@

HOST_CPP = -include $B/host/flags.h -isystem $(HOST_SRC)
ALL_CPPFLAGS = -I. $(HOST_CPP) -DMOD_NAME='"tls"' $(SSL_CFLAGS) $(CPPFLAGS)
ALL_CFLAGS = $(HOST_CFLAGS) -pthread -fPIC -fvisibility=hidden $(WARN) $(if $(WERROR),-Werror) $(CFLAGS)
DEPFLAGS = -MMD -MP -MF $(@:.o=.d)
compile = $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(1) $(DEPFLAGS) -c -o $@ $<
ALL_LIBS = -pthread $(SSL_LIBS) $(ZLIB_LIBS) $(TLS_EXTRA_LIBS)
link_so = $(CC) -shared $(HOST_CFLAGS) $(CFLAGS) $(LDFLAGS) $(1) $(LINK_LIMITS) \
	-Wl,-z,now,-z,relro -Wl,--as-needed -o $@ $(filter %.o,$^) $(ALL_LIBS)
OBJ_DEPS = Makefile $B/key $B/host/config.mk

.PHONY: all install uninstall demo run check bench lint style deps asan unit scenario fuzz doc exports clean \
	distclean help do-check do-demo do-run do-bench FORCE

all: tls.so

# ---- the module
# tls_mod.c holds what the host looks up.
MOD_OBJS := $(SRCS:%.c=$B/obj/%.o)
ASAN_OBJS := $(SRCS:%.c=$B/asan/obj/%.o)
$B/obj/tls_mod.o $B/asan/obj/tls_mod.o $B/lint/tls_mod.o: ALL_CFLAGS += -fvisibility=default

$B/obj/%.o: %.c $(OBJ_DEPS)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(compile)

tls.so: $(MOD_OBJS) tls.map
	$(call say,LD,$@)$(call link_so)

asan: $B/asan/tls.so

$B/asan/obj/%.o: %.c $(OBJ_DEPS)
	@mkdir -p $(@D)
	$(call say,CC,'$< (sanitized)')$(call compile,$(SANITIZE) -O1 -g)

$B/asan/tls.so: $(ASAN_OBJS) tls.map
	$(call say,LD,$@)$(call link_so,$(SANITIZE))

# What leaves the module, written down a second time on purpose.
EXPORTS := exports mod_register module_flags module_version
exports: tls.so
	@found=$$(nm -D --defined-only tls.so | awk '{print $$3}' | LC_ALL=C sort | xargs); \
	[ "$$found" = "$(EXPORTS)" ] || { \
		echo "tls.so exports: $$found" >&2; echo "it must export: $(EXPORTS)" >&2; exit 1; }
	@newer=$$(objdump -T tls.so | grep -o 'OPENSSL_3[0-9.]*.*' | grep -v '^OPENSSL_3\.0\.0)'); \
	[ -z "$$newer" ] || { echo "tls.so does not run with OpenSSL 3.0.0: $$newer" >&2; exit 1; }

# ---- tests
# Every test/unit/test_*.c is a program; it is linked with the other files there and with those of the
# module's files that it uses. Run as it is under valgrind, and once more with sanitizers.
UNIT_PLAIN := $(UNIT_TESTS:test/unit/%.c=$B/unit/plain/%)
UNIT_ASAN := $(UNIT_TESTS:test/unit/%.c=$B/unit/asan/%)
unit_objs = $(addprefix $B/unit/$(1)/obj/,$(SRCS:.c=.o) $(UNIT_HELPERS:.c=.o))
UNIT_CFLAGS := -O1 -g -UNDEBUG -Itest/unit
# test/unit/aead.c stands before these
UNIT_WRAP := -Wl,--wrap=tls_aead_seal,--wrap=tls_aead_open

$B/unit/plain/obj/%.o: %.c $(OBJ_DEPS)
	@mkdir -p $(@D)
	$(Q)$(call compile,$(UNIT_CFLAGS))
$B/unit/asan/obj/%.o: %.c $(OBJ_DEPS)
	@mkdir -p $(@D)
	$(Q)$(call compile,$(UNIT_CFLAGS) $(SANITIZE))
$B/unit/plain/libtls.a: $(call unit_objs,plain)
	$(Q)rm -f $@ && ar rcs $@ $^
$B/unit/asan/libtls.a: $(call unit_objs,asan)
	$(Q)rm -f $@ && ar rcs $@ $^
$B/unit/plain/%: $B/unit/plain/obj/test/unit/%.o $B/unit/plain/libtls.a
	$(call say,LD,$@)$(CC) $(HOST_CFLAGS) $(LDFLAGS) $(UNIT_WRAP) -o $@ $^ -lcmocka $(ALL_LIBS)
$B/unit/asan/%: $B/unit/asan/obj/test/unit/%.o $B/unit/asan/libtls.a
	$(call say,LD,$@)$(CC) $(HOST_CFLAGS) $(LDFLAGS) $(SANITIZE) $(UNIT_WRAP) -o $@ $^ -lcmocka $(ALL_LIBS)

VALGRIND := valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite,possible
unit: $(UNIT_PLAIN) $(UNIT_ASAN)
	@[ -n "$(UNIT_TESTS)" ] || { echo "no unit test found in test/unit" >&2; exit 1; }
	@n=0; run() { log=$B/unit/$$1.log; shift; n=$$((n + 1)); \
		"$$@" >$$log 2>&1 </dev/null || { cat $$log >&2; echo "failed: $$*" >&2; exit 1; }; }; \
	for t in $(UNIT_TESTS:test/unit/%.c=%); do \
		run $$t.valgrind $(VALGRIND) $B/unit/plain/$$t; \
		run $$t.asan $B/unit/asan/$$t; \
	done; \
	echo "unit: $$n runs of $(words $(UNIT_TESTS)) programs (valgrind; address and undefined sanitizers): all passed"

# What scenarios load beside the module; they make it themselves.
TEST_MODULES := $(sort $(wildcard test/modules/*.c))
$B/test/obj/%.o: test/modules/%.c $(OBJ_DEPS)
	@mkdir -p $(@D)
	$(Q)$(call compile,-UMOD_NAME -DMOD_NAME='"$*"' -fvisibility=default)
$B/test/%.so: $B/test/obj/%.o
	$(Q)$(CC) -shared $(HOST_CFLAGS) $(LDFLAGS) -o $@ $<

scenario: tls.so
	TLS_SO='$(or $(TLS_SO),$(CURDIR)/tls.so)' $(PYTHON) -m pytest $(PYTEST_ARGS) test/scenario

# Every test/fuzz/fuzz_NAME.c runs for FUZZ_SECONDS on the kept inputs of test/fuzz/corpus_NAME.
FUZZERS := $(FUZZ_TESTS:test/fuzz/%.c=$B/fuzz/%)
FUZZ_SANITIZE := address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
$B/fuzz/obj/%.o: %.c $(OBJ_DEPS)
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(ALL_CPPFLAGS) $(HOST_CFLAGS) -O1 -g -w -Itest/unit -fsanitize=fuzzer-no-link,$(FUZZ_SANITIZE) \
		$(DEPFLAGS) -c -o $@ $<
$B/fuzz/libtls.a: $(addprefix $B/fuzz/obj/,$(SRCS:.c=.o) $(UNIT_HELPERS:.c=.o))
	$(Q)rm -f $@ && ar rcs $@ $^
$B/fuzz/fuzz_%: $B/fuzz/obj/test/fuzz/fuzz_%.o $B/fuzz/libtls.a
	$(call say,LD,$@)$(CLANG) $(HOST_CFLAGS) -fsanitize=fuzzer,$(FUZZ_SANITIZE) -o $@ $^ $(ALL_LIBS)

fuzz: $(FUZZERS)
	@for f in $(FUZZ_TESTS:test/fuzz/fuzz_%.c=%); do \
		mkdir -p $B/fuzz/new_$$f test/fuzz/corpus_$$f; \
		$B/fuzz/fuzz_$$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 \
			-artifact_prefix=$B/fuzz/$$f- $B/fuzz/new_$$f test/fuzz/corpus_$$f \
			>$B/fuzz/$$f.log 2>&1 </dev/null || { tail -n 60 $B/fuzz/$$f.log >&2; exit 1; }; \
		echo "fuzz: $$f: $$(sed -n 's/^Done \([0-9]* runs in [0-9]* second.*\)/\1/p' $B/fuzz/$$f.log), nothing found"; \
	done

# ---- what needs packages first
deps:
	@tools/deps build demo test bench

check demo run bench:
	@$(if $(filter no,$(DEPS)),:,tools/deps build demo $(if $(filter check,$@),test) $(if $(filter bench,$@),bench))
	@$(MAKE) --no-print-directory do-$@

# Once more with sanitizers, but for the scan of all memory, which theirs is too large for, and the
# stress test, whose figures they would spoil.
do-check: exports
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory fuzz
	@$(MAKE) --no-print-directory scenario
	@$(MAKE) --no-print-directory asan
	ASAN=1 $(PYTHON) -m pytest -q $(PYTEST_ARGS) test/scenario -m 'not stress and not build' --ignore test/scenario/test_secrets.py

do-demo: tls.so
	@demo/run-demo
do-run: tls.so
	@demo/run-demo --serve
do-bench: tls.so
	@bench/run-bench $(BENCH_ARGS)

# ---- lint
HEADERS := $(wildcard *.h)
TOOL_C := $(sort $(wildcard bench/*.c demo/*.c test/scenario/*.c))
ALL_C := $(SRCS) $(HEADERS) $(UNIT_SRCS) $(FUZZ_TESTS) $(TEST_MODULES) $(wildcard test/*/*.h bench/*.h) $(TOOL_C)
SCRIPTS := $(shell grep -lE '^\#! ?/(usr/)?bin/(env )?(ba|da)?sh' $(wildcard tools/* demo/* bench/* test/*/*.sh .ci/run) 2>/dev/null)
PYTHONS := $(sort $(wildcard test/*/*.py bench/*.py demo/*.py tools/*.py) \
	$(shell grep -lE '^\#!.*python3' $(wildcard tools/* demo/* bench/*) 2>/dev/null))

$B/lint/%.o: %.c $(OBJ_DEPS)
	@mkdir -p $(@D)
	$(Q)$(call compile,-O2 $(WARN_LINT) $(LINT_EXTRA))
$(SRCS:%.c=$B/lint/%.o): LINT_EXTRA = -fanalyzer
$(UNIT_SRCS:%.c=$B/lint/%.o) $(FUZZ_TESTS:%.c=$B/lint/%.o): LINT_EXTRA = -Itest/unit -Wno-missing-prototypes
$(TOOL_C:%.c=$B/lint/%.o): LINT_EXTRA = -D_GNU_SOURCE

style:
	@$(PYTHON) tools/lint-style --self-test
	@$(PYTHON) tools/lint-style
	@$(PYTHON) tools/lint-docs --self-test
	@$(PYTHON) tools/lint-docs
	@clang-format --dry-run --Werror $(ALL_C)

# ctuuninitvar takes an output argument for an input, knownConditionTrueFalse overlooks what a call
# may change; it does not read OpenSSL's headers, so it cannot know their version.
CPPCHECK := cppcheck -q --error-exitcode=1 --std=c11 --enable=warning,style,performance,portability \
	--inline-suppr --suppress=missingIncludeSystem --suppress=unmatchedSuppression \
	--suppress='*:$(B)/host/*' --suppress=constParameter --suppress=constParameterCallback --suppress=variableScope \
	--suppress=ctuuninitvar --suppress=knownConditionTrueFalse --suppress=preprocessorErrorDirective \
	--cppcheck-build-dir=$B/cppcheck
$(TEST_MODULES:%.c=$B/lint/%.o): LINT_EXTRA = -Wno-missing-prototypes
lint: style $(addsuffix .o,$(addprefix $B/lint/,$(basename $(SRCS) $(UNIT_SRCS) $(FUZZ_TESTS) $(TOOL_C) $(TEST_MODULES))))
	@mkdir -p $B/cppcheck
	@$(CPPCHECK) -I. --include=$B/host/flags.h -DMOD_NAME='"tls"' $(SRCS) $(TOOL_C)
	@pyflakes3 $(PYTHONS)
	@for f in $(SCRIPTS); do \
		case $$(head -n 1 $$f) in *bash*) bash -n $$f ;; *) sh -n $$f ;; esac || exit 1; \
	done
	@if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); fi
	@echo "lint: $(words $(ALL_C)) C files, $(words $(PYTHONS)) Python files, $(words $(SCRIPTS)) shell scripts: clean"

# ---- install
# Without PREFIX: where the installed host looks. With it: the host's own folders below it.
host_prefix = $(firstword $(subst /lib, ,$(HOST_MODULES)))
MODDIR ?= $(if $(PREFIX),$(PREFIX)$(HOST_MODULES:$(host_prefix)%=%),$(HOST_MODULES))
CFGDIR ?= $(if $(filter-out /usr,$(PREFIX)),$(PREFIX)/etc/$(HOST_NAME),$(HOST_CFG))
DOCDIR ?= $(or $(PREFIX),$(host_prefix))/share/doc/$(HOST_NAME)-tls
DOC_FILES := $(wildcard README COPYING ChangeLog doc/*.md doc/*.txt)

install: tls.so
	@[ -n '$(MODDIR)' ] && [ -n '$(CFGDIR)' ] || { echo "give MODDIR and CFGDIR: the host does not tell its own" >&2; exit 1; }
	@owner=; [ -n '$(DESTDIR)' ] || [ ! -e '$(MODDIR)/tls.so' ] || \
		owner=$$(dpkg-query -S '$(MODDIR)/tls.so' 2>/dev/null | sed -n '1s/:.*//p'); \
	install -d '$(DESTDIR)$(MODDIR)' '$(DESTDIR)$(CFGDIR)' '$(DESTDIR)$(DOCDIR)' && \
	install -m 644 tls.so '$(DESTDIR)$(MODDIR)/tls.so.new' && \
	mv -f '$(DESTDIR)$(MODDIR)/tls.so.new' '$(DESTDIR)$(MODDIR)/tls.so' && \
	echo "installed $(DESTDIR)$(MODDIR)/tls.so" && \
	if [ -n "$$owner" ]; then \
		echo "note: it replaced the file of package $$owner, whose next upgrade would bring its own back;"; \
		echo "      'apt-get remove $$owner' before 'make install' keeps this one"; \
	fi
	@to='$(DESTDIR)$(CFGDIR)/tls.cfg'; [ ! -f tls.cfg ] || \
	if [ ! -e "$$to" ]; then install -m 644 tls.cfg "$$to" && echo "installed $$to"; \
	elif cmp -s tls.cfg "$$to"; then echo "kept      $$to (the same)"; \
	else install -m 644 tls.cfg "$$to.sample" && echo "kept      $$to (yours); the new sample is $$to.sample"; fi
	@$(if $(DOC_FILES),install -m 644 $(DOC_FILES) '$(DESTDIR)$(DOCDIR)' && \
		install -m 755 tools/tls-ca '$(DESTDIR)$(DOCDIR)' && echo "installed $(DESTDIR)$(DOCDIR)",:)

uninstall:
	@rm -f '$(DESTDIR)$(MODDIR)/tls.so' '$(DESTDIR)$(CFGDIR)/tls.cfg.sample'
	@rm -f $(foreach f,tls-ca $(notdir $(DOC_FILES)),'$(DESTDIR)$(DOCDIR)/$f')
	@rmdir '$(DESTDIR)$(DOCDIR)' 2>/dev/null || true
	@to='$(DESTDIR)$(CFGDIR)/tls.cfg'; [ ! -f "$$to" ] || echo "left $$to in place"

# ---- the rest
# HTML and man pages (tls-NAME, section 7). The first heading is the title.
DOCS_TO ?= $B/doc
DOC_PAGES := $(patsubst doc/%.md,%,$(wildcard doc/*.md))
PANDOC := pandoc -s -f gfm --lua-filter tools/doc-links.lua --shift-heading-level-by=-1
doc: $(DOC_PAGES:%=$(DOCS_TO)/%.html) $(DOC_PAGES:%=$(DOCS_TO)/man/tls-%.7)
$(DOCS_TO)/%.html: doc/%.md tools/doc-links.lua
	@mkdir -p $(@D)
	@$(PANDOC) -t html --toc -M lang=en -V maxwidth=56em -o $@ $<
$(DOCS_TO)/man/tls-%.7: doc/%.md tools/doc-links.lua
	@mkdir -p $(@D)
	@$(PANDOC) -t man -V section=7 -V header='tls.so for SER' -o $@ $<

clean:
	@[ ! -d $B ] || find $B -mindepth 1 -maxdepth 1 ! -name host -exec rm -rf {} +
	@rm -rf tls.so .pytest_cache compile_commands.json
	@find . -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $B

help:
	@echo 'make                the module tls.so, for the SER that is installed'
	@echo 'make demo           installs what is missing and shows calls over TLS'
	@echo 'make run            the same set-up, SER stays in the foreground'
	@echo 'make check          installs what is missing, runs lint and every test'
	@echo 'make bench          measures this module against others'
	@echo 'make install        module, sample configuration and documents (DESTDIR, PREFIX, MODDIR, CFGDIR, DOCDIR)'
	@echo 'make uninstall, deps, lint, unit, scenario, fuzz, exports, asan, doc, clean, distclean'
	@echo
	@echo 'SER_SRC=DIR         build for a source tree of SER instead of the installed one'
	@echo 'SER_BIN=FILE        the host is this binary (default: kamailio)'
	@echo 'TLS_EXTRA_LIBS=...  more libraries to link with; SSL_CFLAGS, SSL_LIBS, ZLIB_LIBS'
	@echo 'WERROR=1 V=1 DEPS=no FUZZ_SECONDS=20 PYTEST_ARGS=-q TLS_TEST_SLOW=2 BENCH_ARGS='

.SECONDARY:
DEPENDENCIES := $(shell find $B -name '*.d' 2>/dev/null)
$(if $(HOST_GOALS),$(eval -include $(DEPENDENCIES)))

endif
