/* SPDX-License-Identifier: ISC */
/*
 * Units of the parser of tls.cfg and of what reads its files: most are rows of
 * {text, sections that it gives} and {text, messages that it gives}. Runs in
 * the project's top folder, where it loads the sample tls.cfg. Both are part of
 * this program so that their memory can run out; so only these are to be linked:
 *
 *   gcc -I. (host headers) test_config.c tls_params.c tls_address.c tls_file.c tls_report.c \
 *         -lcmocka -lcrypto
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>

#include "tls_config.h"

/* Allocations that succeed before one fails; negative: all do. */
static int good_allocations = -1;

static bool allocation_fails(void)
{
	return good_allocations >= 0 && good_allocations-- == 0;
}

#define malloc(size)                   (allocation_fails() ? NULL : malloc(size))
#define calloc(count, size)            (allocation_fails() ? NULL : calloc(count, size))
#define reallocarray(old, count, size) (allocation_fails() ? NULL : reallocarray(old, count, size))
#define strdup(text)                   (allocation_fails() ? NULL : strdup(text))
#include "tls_parse.c"
#include "tls_config.c"
#undef malloc
#undef calloc
#undef reallocarray
#undef strdup

#include <cmocka.h>

#define DUMP_SIZE 4096
#define PATH_SIZE 512

static const char example_18[] = "[server:default]\n"
				 "method = TLSv1\n"
				 "verify_certificate = no\n"
				 "require_certificate = no\n"
				 "private_key = default_key.pem\n"
				 "certificate = default_cert.pem\n"
				 "ca_list = default_ca.pem\n"
				 "\n"
				 "[client:default]\n"
				 "verify_certificate = yes\n"
				 "require_certificate = yes\n"
				 "\n"
				 "#more relaxed for connection on the loopback interface\n"
				 "[server:127.0.0.1:5061]\n"
				 "method = SSLv23\n"
				 "verify_certificate = yes\n"
				 "require_certificate = no\n"
				 "private_key = local_key.pem\n"
				 "certificate = local_cert.pem\n"
				 "verify_depth = 3\n"
				 "ca_list = local_ca.pem\n";

/* One of everything that the grammar has. */
static const char rich[] = "\xef\xbb\xbf# comment \\\n"
			   "goes on\r\n"
			   "[server:default] # why\n"
			   "method = TLSv1.2+\n"
			   "CERTIFICATE=\"a \\\"b\\\" \\\\ \\n\\r\\t\\# \\\n c.pem\"# why\n"
			   "private_key = b\\ c\\\n"
			   "d.pem\n"
			   "ca_list =\n"
			   "\t[ srv : [ 2001:db8::1 ] : 5061 ]\r\n"
			   "verify_depth = \"7\"\r\n"
			   "verify_cert = ENABLED\n"
			   "[c:192.0.2.1:0]\n"
			   "server_id = \xc3\xa4\xc3\xb6\n"
			   "[cli:all]\n"
			   "verify_client = optional_no_ca\n"
			   "server_name = example.org";

/* ---- what a configuration says, as a line of text ---- */

struct dump {
	char text[DUMP_SIZE];
	size_t len;
};

__attribute__((format(printf, 2, 3))) static void add(struct dump *d, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(d->text + d->len, sizeof(d->text) - d->len, format, args);
	va_end(args);
	assert_in_range(n, 0, sizeof(d->text) - d->len - 1);
	d->len += (size_t)n;
}

static void dump_section(struct dump *d, const struct tls_config_section *s)
{
	char address[TLS_ADDRESS_TEXT];

	add(d, "%s%s:%s@%u", d->len ? " " : "", s->role == TLS_ROLE_SERVER ? "server" : "client",
	    s->scope == TLS_CONFIG_DEFAULT ? "default"
	    : s->scope == TLS_CONFIG_ANY   ? "any"
					   : tls_address_text(&s->address, address),
	    s->line);
#define TLS_I(field, param, cfg, def, lo, hi, rt, help)                                            \
	if (s->lines.field)                                                                        \
		add(d, " " cfg "=%d@%u", s->settings.field, s->lines.field);
#define TLS_S(field, param, cfg, def, check, rt, help)                                             \
	if (s->lines.field)                                                                        \
		add(d, " " cfg "=%s@%u", s->settings.field ? s->settings.field : "(none)",         \
		    s->lines.field);
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
}

static const char *dump(struct dump *d, const struct tls_config *c)
{
	*d = (struct dump){0};
	for (size_t i = 0; i < c->count; i++)
		dump_section(d, &c->sections[i]);
	return d->text;
}

static const char *said(const struct tls_report *report)
{
	return report->text ? report->text : "";
}

/* A configuration comes exactly when no error does. */
static struct tls_config *parse(const char *text, size_t len, struct tls_report *report)
{
	struct tls_config *c = tls_config_parse("t", text, len, report);

	assert_int_equal(report->errors == 0, c != NULL);
	return c;
}

/* ---- texts ---- */

#define S "[server:default]\n"
#define D "server:default@1"

static const struct {
	const char *input;
	const char *sections;
	const char *warnings;
} good[] = {
	{S, D, ""},
	{"[server:default]", D, ""},
	{"\n\r\n \t\n" S, "server:default@4", ""},
	{"\xef\xbb\xbf" S, D, ""},
	/* roles, addresses */
	{"[srv:def]\n[s:*]\n[SERVER:Default]", D " server:default@2 server:default@3", ""},
	{"[client:any]\n[cli:all]\n[c:ALL]", "client:any@1 client:any@2 client:any@3", ""},
	{"[s:192.0.2.1:5061]", "server:192.0.2.1:5061@1", ""},
	{"[s:192.0.2.1]", "server:192.0.2.1:0@1", ""},
	{"[s:192.0.2.1:0]", "server:192.0.2.1:0@1", ""},
	{"[s:192.0.2.1:65535]", "server:192.0.2.1:65535@1", ""},
	{"[server:[2001:db8::1]:5061]", "server:[2001:db8::1]:5061@1", ""},
	{"[server:[::]]", "server:[::]:0@1", ""},
	{"[server:[::ffff:192.0.2.1]]", "server:[::ffff:192.0.2.1]:0@1", ""},
	{"[s:[1111:2222:3333:4444:5555:6666:7777:8888]:1]",
	 "server:[1111:2222:3333:4444:5555:6666:7777:8888]:1@1", ""},
	{" [ server : [ 2001:db8::1 ] : 5061 ] # why", "server:[2001:db8::1]:5061@1", ""},
	{"\t[\ts\t:\t*\t]\t\r\n", D, ""},
	{"[s\\\n:\\\r\n*]\n[c:*]", "server:default@1 client:default@4", ""},
	/* keys */
	{S "tls_method=TLSv1.3", D " method=TLSv1.3@2", ""},
	{S "METHOD=tlsv1.3", D " method=tlsv1.3@2", ""},
	{S "verify_cert=1\nrequire_cert=1\nca_list=a",
	 D " ca_list=a@4 verify_certificate=1@2 require_certificate=1@3", ""},
	{S "cert_file=a\npkey_file=b\ncalist_file=c",
	 D " certificate=a@2 private_key=b@3 ca_list=c@4", ""},
	{S "private = k", D " private_key=k@2", ""},
	{S "cert_file2=a\npkey_file2=b\npkey_password=c\npkey_password2=d",
	 D " private_key_password=c@4 certificate2=a@2 private_key2=b@3 private_key_password2=d@5",
	 ""},
	{S "crl=a\n[c:*]\ncrl=b", D " crl=a@2 client:default@3 crl=b@4", ""},
	{S "crl\\\n=\\\na\nca_path=b", D " ca_path=b@5 crl=a@2", ""},
	/* numbers, switches */
	{S "verify_depth = 0", D " verify_depth=0@2", ""},
	{S "verify_depth = \"100\"", D " verify_depth=100@2", ""},
	{S "server_name_mode = 2", D " server_name_mode=2@2", ""},
	{S "verify_cert = yes", D " verify_certificate=1@2", ""},
	{S "verify_cert = True", D " verify_certificate=1@2", ""},
	{S "verify_cert = on", D " verify_certificate=1@2", ""},
	{S "verify_cert = enable", D " verify_certificate=1@2", ""},
	{S "verify_cert = \"enabled\"", D " verify_certificate=1@2", ""},
	{S "verify_cert = no", D " verify_certificate=0@2", ""},
	{S "verify_cert = FALSE", D " verify_certificate=0@2", ""},
	{S "verify_cert = off", D " verify_certificate=0@2", ""},
	{S "verify_cert = disable", D " verify_certificate=0@2", ""},
	{S "verify_cert = disabled", D " verify_certificate=0@2", ""},
	{S "verify_cert = 0", D " verify_certificate=0@2", ""},
	/* values */
	{S "crl=a=b;c:d!e,f[g]/h", D " crl=a=b;c:d!e,f[g]/h@2", ""},
	{S "crl = a\"b", D " crl=a\"b@2", ""},
	{S "crl=a#b", D " crl=a@2", ""},
	{S "crl = a # b", D " crl=a@2", ""},
	{S "crl = \"a # b\" # c", D " crl=a # b@2", ""},
	{S "crl = \xc3\xa4\xff\x01<>^~{}", D " crl=\xc3\xa4\xff\x01<>^~{}@2", ""},
	{S "crl = a\\ \\#\\\"\\\\\\n\\r\\t", D " crl=a #\"\\\n\r\t@2", ""},
	{S "crl = \"a\\ \\#\\\"\\\\\\n\\r\\t\"", D " crl=a #\"\\\n\r\t@2", ""},
	{S "crl = a\\\nb\\\r\nc\nca_path=d", D " ca_path=d@5 crl=abc@2", ""},
	{S "crl = \"a\\\n b\\\r\n c\"", D " crl=a b c@2", ""},
	{S "crl = a\r\nca_path = b\r\n", D " ca_path=b@3 crl=a@2", ""},
	/* cleared */
	{S "crl =", D " crl=(none)@2", ""},
	{S "crl = \"\"", D " crl=(none)@2", ""},
	{S "crl = # none", D " crl=(none)@2", ""},
	{S "certificate =\nserver_name =", D " certificate=(none)@2 server_name=(none)@3", ""},
	{S "method =\nverify_client=\ncrl_check=\nverify_name=",
	 D " method=TLSv1.2+@2 crl_check=chain@4 verify_client=off@3 verify_name=off@5", ""},
	{S "verify_depth =\nverify_certificate =", D " verify_certificate=0@3 verify_depth=9@2",
	 ""},
	/* comments */
	{"# a\n  # b\n" S "#c\ncrl=a", "server:default@3 crl=a@5", ""},
	{S "# a \\\ncrl=a\nca_path=b", D " ca_path=b@4",
	 "W t:2:1: a backslash at the end of a comment makes the next line a comment\n"},
	{S "crl=a # b \\\r\n\\\nx\n# c:\\d\\\\\nca_path=b", D " ca_path=b@6 crl=a@2",
	 "W t:2:7: a backslash at the end of a comment makes the next line a comment\n"},
	/* nothing */
	{"", "", "W t: there is no section, only the built-in defaults are used\n"},
	{"# a", "", "W t: there is no section, only the built-in defaults are used\n"},
	{"\xef\xbb\xbf", "", "W t: there is no section, only the built-in defaults are used\n"},
};

#define ADDRESS                                                                                    \
	"is not valid, expected default, any, or an IPv4 address or an IPv6 address in brackets, " \
	"with or without a port\n"
#define PORT  "is not valid, expected 0 (any) to 65535\n"
#define ROLE  "is unknown, expected server (srv, s) or client (cli, c)\n"
#define BLANK "expected the end of the line; a value with blanks must be in double quotes\n"
#define ESCAPE                                                                                     \
	"unknown escape, expected \\\\ \\\" \\# \\n \\r \\t, or a blank or the line's end after "  \
	"the backslash\n"
#define QUOTE "the quote is not closed, expected '\"' before the end of the line\n"
#define LINE  "expected a section [TYPE:ADDRESS], a setting KEY = VALUE, or a comment #\n"
#define YESNO "is not valid, expected yes or no (on, off, true, false, enabled, disabled, 1, 0)\n"

static const struct {
	const char *input;
	const char *messages;
} bad[] = {
	/* heads of sections */
	{"[", "E t:1:2: section type '' " ROLE},
	{"[]", "E t:1:2: section type '' " ROLE},
	{"[default]", "E t:1:2: section type 'default' " ROLE},
	{"\n [peer:default]", "E t:2:3: section type 'peer' " ROLE},
	{"[server", "E t:1:8: expected ':' after the section type\n"},
	{"[server]", "E t:1:8: expected ':' after the section type\n"},
	{"[server default]", "E t:1:9: expected ':' after the section type\n"},
	{"[server:", "E t:1:9: address '' " ADDRESS},
	{"[server:]", "E t:1:9: address '' " ADDRESS},
	{"[server:default", "E t:1:16: expected ']' after the address\n"},
	{"[server:any:5061]", "E t:1:12: expected ']' after the address\n"},
	{"[server:everything]", "E t:1:9: address 'everything' " ADDRESS},
	{"[server:sip.example.org:5061]", "E t:1:9: address 'sip.example.org:5061' " ADDRESS},
	{"[server:192.0.2:5061]", "E t:1:9: address '192.0.2:5061' " ADDRESS},
	{"[server:192.0.2.256]", "E t:1:9: address '192.0.2.256' " ADDRESS},
	{"[server:192.0.2.1.1]", "E t:1:9: address '192.0.2.1.1' " ADDRESS},
	{"[server:2001:db8::1]", "E t:1:9: address '2001:db8::1' " ADDRESS},
	{"[server:[2001:db8::g]:5061]", "E t:1:9: address '[2001:db8::g]' " ADDRESS},
	{"[server:[192.0.2.1]:5061]", "E t:1:9: address '[192.0.2.1]' " ADDRESS},
	{"[server:[2001:db8::1:5061\n", "E t:1:9: address '[2001:db8::1:5061' " ADDRESS},
	{"[server:[fe80::1%eth0]]", "E t:1:9: address '[fe80::1%eth0]' " ADDRESS},
	{"[server:[1111:2222:3333:4444:5555:6666:7777:8888:9999:0000:1111]]",
	 "E t:1:9: address '[1111:2222:3333:4444:5555:6666:7777:8888:9999:0000:1111]' " ADDRESS},
	{"[server:192.0.2.1:]", "E t:1:19: port '' " PORT},
	{"[server:192.0.2.1:65536]", "E t:1:19: port '65536' " PORT},
	{"[server:192.0.2.1:99999999999999999999999]",
	 "E t:1:19: port '99999999999999999999999' " PORT},
	{"[server:192.0.2.1:sips]", "E t:1:19: port 'sips' " PORT},
	{"[server:192.0.2.1:-1]", "E t:1:19: port '-1' " PORT},
	{"[server:[::1]:5061", "E t:1:19: expected ']' after the address\n"},
	{"[server:default] method = TLSv1", "E t:1:18: expected the end of the line after ']'\n"},
	/* lines that are neither */
	{S "= a", "E t:2:1: " LINE},
	{S "\"crl\" = a", "E t:2:1: " LINE},
	{S "; crl", "E t:2:1: a comment starts with '#'\n"},
	{S "\\", "E t:2:1: " LINE},
	/* keys */
	{"crl = a", "E t:1:1: crl stands before the first section, expected [server:ADDRESS] or "
		    "[client:ADDRESS]\n"},
	{S "crl", "E t:2:4: expected '=' after the key\n"},
	{S "crl a", "E t:2:5: expected '=' after the key\n"},
	{S "crl: a", "E t:2:4: expected '=' after the key\n"},
	{S "  certificat = a", "E t:2:3: unknown key 'certificat', did you mean certificate?\n"},
	{S "Verify-Certificate = a",
	 "E t:2:1: unknown key 'Verify-Certificate', did you mean verify_certificate?\n"},
	{S "clr = a", "E t:2:1: unknown key 'clr'\n"},
	{S "cr = a", "E t:2:1: unknown key 'cr', did you mean crl?\n"},
	{S "pkey_passwod2 = a",
	 "E t:2:1: unknown key 'pkey_passwod2', did you mean pkey_password2?\n"},
	{S "CERTIFICAT = a", "E t:2:1: unknown key 'CERTIFICAT', did you mean certificate?\n"},
	{S "include = a", "E t:2:1: unknown key 'include'\n"},
	{S "send_timeout = 3",
	 "E t:2:1: 'send_timeout' is a parameter of the whole module, not of a section\n"},
	{S "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa = a",
	 "E t:2:1: unknown key "
	 "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...'\n"},
	{S "crl = a\n\ncrl = b", "E t:4:1: crl is set twice in this section, first in line 2\n"},
	{S "pkey_file = a\nprivate_key =",
	 "E t:3:1: private_key is set twice in this section, first in line 2\n"},
	/* values; what follows one is not shown */
	{S "private_key_password = my secret", "E t:2:27: " BLANK},
	{S "private_key_password = \"my\" secret", "E t:2:29: " BLANK},
	{S "private_key_password = my\\secret", "E t:2:26: " ESCAPE},
	{S "crl = \"a\\x41\"", "E t:2:9: " ESCAPE},
	{S "crl = a\\", "E t:2:8: " ESCAPE},
	{S "crl = \"a\\", "E t:2:9: " ESCAPE},
	{S "crl = \"a", "E t:2:7: " QUOTE},
	{S "crl = \"a\nca_path = b\"\ncrl = \"", "E t:2:7: " QUOTE "E t:4:7: " QUOTE},
	{S "crl = \"a\\\nb", "E t:2:7: " QUOTE},
	{S "method = TLSv2",
	 "E t:2:10: method: value 'TLSv2' is not valid, expected one of TLSv1.2+, TLSv1.3, "
	 "TLSv1.3+, TLSv1.2, TLSv1.1, TLSv1.1+, TLSv1.0, TLSv1.0+, TLSv1, TLSv1+, SSLv23, SSLv3, "
	 "SSLv2\n"},
	{S "verify_client = \"ma\xc3\xa4\xff\n", "E t:2:17: " QUOTE},
	{S "verify_client = \xc3\xa4\xff\x01\x7f", "E t:2:17: verify_client: value '\xc3\xa4??"
						   "?' is not valid, expected one of off, on, "
						   "optional, optional_no_ca\n"},
	{S "verify_cert = maybe", "E t:2:15: verify_certificate: value 'maybe' " YESNO},
	{S "verify_cert = 2", "E t:2:15: verify_certificate: value '2' " YESNO},
	{S "verify_depth = 101",
	 "E t:2:16: verify_depth: value '101' is not valid, expected a number from 0 to 100\n"},
	{S "verify_depth = -1",
	 "E t:2:16: verify_depth: value '-1' is not valid, expected a number from 0 to 100\n"},
	{S "verify_depth = 3x",
	 "E t:2:16: verify_depth: value '3x' is not valid, expected a number from 0 to 100\n"},
	{S "verify_depth = 99999999999999999999",
	 "E t:2:16: verify_depth: value '99999999999999999999' is not valid, expected a number "
	 "from 0 to 100\n"},
	{S "verify_depth = yes",
	 "E t:2:16: verify_depth: value 'yes' is not valid, expected a number from 0 to 100\n"},
	/* all are told; a wrong head does not hide what is below it */
	{"crl = a\n[peer:*]\nclr = b\nverify_depth = x\n\xef\xbb\xbf\n[server:*]\ncrl = a b\n",
	 "E t:1:1: crl stands before the first section, expected [server:ADDRESS] or "
	 "[client:ADDRESS]\nE t:2:2: section type 'peer' " ROLE "E t:3:1: unknown key 'clr'\n"
	 "E t:4:16: verify_depth: value 'x' is not valid, expected a number from 0 to 100\n"
	 "E t:5:1: " LINE "E t:7:9: " BLANK},
	/* a line that is wrong ends where it would, were it right */
	{S "clr = a\\\nb = c\ncr = d",
	 "E t:2:1: unknown key 'clr'\nE t:4:1: unknown key 'cr', did you mean crl?\n"},
};

static void test_good(void **state)
{
	struct dump d;

	(void)state;
	for (size_t i = 0; i < COUNT(good); i++) {
		struct tls_report report = {0};
		struct tls_config *c = parse(good[i].input, strlen(good[i].input), &report);

		assert_string_equal(said(&report), good[i].warnings);
		assert_string_equal(dump(&d, c), good[i].sections);
		tls_config_free(c);
		tls_report_free(&report);
	}
}

static void test_bad(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(bad); i++) {
		struct tls_report report = {0};

		parse(bad[i].input, strlen(bad[i].input), &report);
		assert_string_equal(said(&report), bad[i].messages);
		tls_report_free(&report);
	}
}

static void test_example_18(void **state)
{
	struct tls_report report = {0};
	struct tls_config *c = parse(example_18, strlen(example_18), &report);
	struct dump d;

	(void)state;
	assert_string_equal(said(&report), "");
	assert_string_equal(
		dump(&d, c),
		"server:default@1 method=TLSv1@2 certificate=default_cert.pem@6 "
		"private_key=default_key.pem@5 ca_list=default_ca.pem@7 verify_certificate=0@3 "
		"require_certificate=0@4 client:default@9 verify_certificate=1@10 "
		"require_certificate=1@11 server:127.0.0.1:5061@14 method=SSLv23@15 "
		"certificate=local_cert.pem@19 private_key=local_key.pem@18 "
		"ca_list=local_ca.pem@21 verify_certificate=1@16 require_certificate=0@17 "
		"verify_depth=3@20");
	for (size_t i = 0; i < c->count; i++)
		assert_string_equal(c->sections[i].file, "t");
	tls_config_free(c);
	tls_report_free(&report);
}

/* A value that the row takes and that is not empty, which would clear it. */
static const char *good_value(const struct row *row)
{
	const char *const values[] = {"x", row->text, "TLSv1.2"};

	for (size_t i = 0; i < COUNT(values); i++)
		if (values[i][0] && (!row->check || !row->check(values[i])))
			return values[i];
	fail_msg("no value for %s", row->name);
	return "";
}

/* Every key of every row, and both of its names, can be set; nothing else changes. */
static void test_rows(void **state)
{
	size_t tried = 0;

	(void)state;
	for (size_t i = 0; i < COUNT(keys); i++) {
		const struct row *row = &rows[keys[i].row];
		struct tls_report report = {0};
		struct tls_config *c;
		struct dump d;
		char text[256], wanted[256];

		if (row->is_text) {
			const char *value = good_value(row);

			snprintf(text, sizeof(text), S "%s = %s", keys[i].name, value);
			snprintf(wanted, sizeof(wanted), D " %s=%s@2", row->name, value);
		} else {
			snprintf(text, sizeof(text), S "%s = %d", keys[i].name, row->hi);
			snprintf(wanted, sizeof(wanted), D " %s=%d@2", row->name, row->hi);
		}
		c = parse(text, strlen(text), &report);
		assert_string_equal(said(&report), "");
		assert_string_equal(dump(&d, c), wanted);
		tls_config_free(c);
		tried++;
	}
	assert_true(tried >= 2 * COUNT(rows));
}

/* ---- damage ---- */

/* The text stands at the end of its memory, so that a byte too many that is read is seen. */
static void parse_exactly(const char *text, size_t len)
{
	struct tls_report report = {0};
	char *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	memcpy(copy, text, len);
	tls_config_free(parse(copy, len, &report));
	free(copy);
	tls_report_free(&report);
}

static void test_truncated(void **state)
{
	(void)state;
	for (size_t len = 0; len < sizeof(rich); len++)
		parse_exactly(rich, len);
	for (size_t len = 0; len < sizeof(example_18); len++)
		parse_exactly(example_18, len);
}

static void test_damaged(void **state)
{
	static const char bytes[] = "\0\n\r\\\"[]:=# x\x80\xff";
	char text[sizeof(rich)];

	(void)state;
	for (size_t i = 0; i < sizeof(rich) - 1; i++) {
		for (size_t j = 0; j < sizeof(bytes) - 1; j++) {
			memcpy(text, rich, sizeof(rich));
			text[i] = bytes[j];
			parse_exactly(text, sizeof(rich) - 1);
		}
		memmove(text + i, rich + i + 1, sizeof(rich) - i - 1);
		parse_exactly(text, sizeof(rich) - 2);
	}
}

static void test_no_memory(void **state)
{
	struct dump d;
	int n = 0;

	(void)state;
	for (bool enough = false; !enough; n++) {
		struct tls_report report = {0};
		struct tls_config *c;

		good_allocations = n;
		c = tls_config_parse("t", rich, sizeof(rich) - 1, &report);
		enough = good_allocations >= 0;
		good_allocations = -1;
		assert_int_equal(c != NULL, enough);
		if (enough)
			assert_int_equal(strncmp(dump(&d, c), "server:default@3", 16), 0);
		else
			assert_non_null(strstr(said(&report), "out of memory"));
		tls_config_free(c);
		tls_report_free(&report);
	}
	assert_in_range(n, 10, 100);
}

static void assert_nul_found(const char *text, size_t len, const char *message)
{
	struct tls_report report = {0};

	parse(text, len, &report);
	assert_string_equal(said(&report), message);
	tls_report_free(&report);
}

static void test_nul(void **state)
{
	(void)state;
	assert_nul_found("\0", 1, "E t:1:1: a NUL byte: the file is no text in UTF-8\n");
	assert_nul_found("[x]\n# a\0b\n\0", 11,
			 "E t:2:4: a NUL byte: the file is no text in UTF-8\n");
	assert_nul_found("\xef\xbb\xbf[x\0", 6,
			 "E t:1:3: a NUL byte: the file is no text in UTF-8\n");
	assert_nul_found("#\n\0\n", 4, "E t:2:1: a NUL byte: the file is no text in UTF-8\n");
}

/* ---- limits ---- */

static void assert_long_line(size_t value_len, size_t parts, const char *message)
{
	static const char head[] = S "crl = ";
	struct tls_report report = {0};
	char *text = malloc(sizeof(head) + parts * (value_len + 2));
	struct tls_config *c;
	size_t len = sizeof(head) - 1;

	assert_non_null(text);
	memcpy(text, head, len);
	for (size_t i = 0; i < parts; i++) {
		memset(text + len, 'x', value_len);
		len += value_len;
		memcpy(text + len, "\\\n", 2);
		len += i + 1 < parts ? 2 : 0;
	}
	c = parse(text, len, &report);
	assert_string_equal(said(&report), message);
	if (c)
		assert_int_equal(strlen(c->sections[0].settings.crl), parts * value_len);
	tls_config_free(c);
	tls_report_free(&report);
	free(text);
}

static void test_long_lines(void **state)
{
	(void)state;
	assert_long_line(65536 - 6, 1, "");
	assert_long_line(65536 - 5, 1, "E t:2:65537: the line is longer than 65536 bytes\n");
	assert_long_line(1, 65536, "");
	assert_long_line(1, 65537, "E t:2:7: the value is longer than 65536 bytes\n");
}

static char *repeat(const char *text, size_t count, size_t *len)
{
	size_t one = strlen(text);
	char *all = malloc(one * count + 1);

	assert_non_null(all);
	for (size_t i = 0; i < count; i++)
		memcpy(all + i * one, text, one);
	*len = one * count;
	return all;
}

static void test_many_errors(void **state)
{
	static const char last[] = "E t: more than 100 errors, the others are not listed\n";
	struct tls_report report = {0};
	size_t len;
	char *text = repeat("x\n", 100000, &len);

	(void)state;
	parse(text, len, &report);
	assert_int_equal(report.errors, 101);
	assert_string_equal(report.text + report.len - strlen(last), last);
	tls_report_free(&report);
	parse(text, 200, &report);
	assert_int_equal(report.errors, 100);
	assert_null(strstr(said(&report), "listed"));
	tls_report_free(&report);
	free(text);
	text = repeat("#\\\n\n", 100000, &len);
	tls_config_free(parse(text, len, &report));
	assert_int_equal(report.warnings, 100);
	tls_report_free(&report);
	free(text);
}

static void test_many_sections(void **state)
{
	struct tls_report report = {0};
	size_t len;
	char *text = repeat("[s:*]\n", TLS_CONFIG_MAX_SECTIONS + 1, &len);
	struct tls_config *c = parse(text, len - 6, &report);

	(void)state;
	assert_string_equal(said(&report), "");
	assert_int_equal(c->count, TLS_CONFIG_MAX_SECTIONS);
	tls_config_free(c);
	parse(text, len, &report);
	assert_string_equal(said(&report), "E t:262145:1: more than 262144 sections\n");
	tls_report_free(&report);
	free(text);
}

static clock_t time_to_parse(size_t sections)
{
	struct tls_report report = {0};
	size_t len;
	char *text = repeat("[server:any]\nserver_name = www.example.org\ncertificate = a.pem\n"
			    "private_key = a.key\nca_list = ca.pem\nrequire_certificate = no\n"
			    "method = TLSv1.2+ # enough\n",
			    sections, &len);
	clock_t start = clock();
	struct tls_config *c = parse(text, len, &report);
	clock_t used = clock() - start;

	assert_string_equal(said(&report), "");
	assert_int_equal(c->count, sections);
	tls_config_free(c);
	free(text);
	return used;
}

/* Sixteen times the sections take about sixteen times as long, not 256 times. */
static void test_linear(void **state)
{
	clock_t few = time_to_parse(1000), many = time_to_parse(16000);

	(void)state;
	assert_true(many < 64 * few + CLOCKS_PER_SEC / 10);
}

/* ---- files ---- */

static char folder[] = "/tmp/test_config.XXXXXX";

static const char *in_folder(const char *name)
{
	static char path[PATH_SIZE];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static void write_file(const char *name, const char *text)
{
	FILE *f = fopen(in_folder(name), "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static int make_folder(void **state)
{
	(void)state;
	memcpy(folder + strlen(folder) - 6, "XXXXXX", 6);
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	(void)state;
	while (dir && (entry = readdir(dir)))
		if (unlink(in_folder(entry->d_name)) != 0 && entry->d_name[0] != '.')
			rmdir(in_folder(entry->d_name));
	closedir(dir);
	return rmdir(folder);
}

/* What was said must be format, in which each % is the folder's path. */
static void assert_said(struct tls_report *report, const char *format)
{
	char wanted[DUMP_SIZE] = "";
	size_t len = 0;

	for (; *format; format++)
		len += (size_t)snprintf(wanted + len, sizeof(wanted) - len,
					*format == '%' ? "%s" : "%.1s",
					*format == '%' ? folder : format);
	assert_string_equal(said(report), wanted);
	tls_report_free(report);
}

static struct tls_config *read_folder(const struct tls_config *previous, struct tls_report *report)
{
	struct tls_config *c = tls_config_read(folder, previous, report);

	assert_int_equal(report->errors == 0, c != NULL);
	return c;
}

static void test_directory(void **state)
{
	static const char *const leftovers[] = {
		"#a.cfg#",    "a.cfg~",     "a.bak",      "a.orig",  "a.rej",
		"a.save",     "a.rpmnew",   "a.rpmsave",  "a.swp",   "a.tmp",
		"a.dpkg-new", "a.ucf-dist", ".a.cfg.swp", ".hidden",
	};
	struct tls_report report = {0};
	struct tls_config *c;
	struct dump d;

	(void)state;
	write_file("b.cfg", "[s:any]\ncrl=b");
	write_file("a.cfg", S "crl=a");
	write_file("C", "# nothing");
	write_file("d\xc3\xa4", "[c:*]");
	for (size_t i = 0; i < COUNT(leftovers); i++)
		write_file(leftovers[i], "?");
	mkdir(in_folder("x.d"), 0700);
	assert_int_equal(mkfifo(in_folder("y"), 0600), 0);
	c = read_folder(NULL, &report);
	assert_said(&report,
		    "W %/#a.cfg#: left out: named like what an editor or package manager "
		    "leaves behind\nW %/a.bak: left out: named like what an editor or "
		    "package manager leaves behind\nW %/a.cfg~: left out: named like what "
		    "an editor or package manager leaves behind\nW %/a.dpkg-new: left out: "
		    "named like what an editor or package manager leaves behind\nW "
		    "%/a.orig: left out: named like what an editor or package manager "
		    "leaves behind\nW %/a.rej: left out: named like what an editor or "
		    "package manager leaves behind\nW %/a.rpmnew: left out: named like "
		    "what an editor or package manager leaves behind\nW %/a.rpmsave: left "
		    "out: named like what an editor or package manager leaves behind\nW "
		    "%/a.save: left out: named like what an editor or package manager "
		    "leaves behind\nW %/a.swp: left out: named like what an editor or "
		    "package manager leaves behind\nW %/a.tmp: left out: named like what "
		    "an editor or package manager leaves behind\nW %/a.ucf-dist: left out: "
		    "named like what an editor or package manager leaves behind\nW %/x.d: "
		    "left out: a directory inside of a directory\nW %/y: left out: not a "
		    "regular file\n");
	assert_string_equal(dump(&d, c),
			    "server:default@1 crl=a@2 server:any@1 crl=b@2 client:default@1");
	assert_int_equal(c->file_count, 4);
	assert_string_equal(c->sections[0].file, in_folder("a.cfg"));
	assert_string_equal(c->sections[1].file, in_folder("b.cfg"));
	tls_config_free(c);
}

static void test_directory_errors(void **state)
{
	struct tls_report report = {0};

	(void)state;
	read_folder(NULL, &report);
	assert_said(&report, "E %: the directory has no configuration file\n");
	write_file("a", "x = 1\n");
	write_file("b", S);
	write_file("c", S "crl = \"\n");
	assert_int_equal(symlink("nowhere", in_folder("d")), 0);
	assert_int_equal(symlink("e", in_folder("e")), 0);
	read_folder(NULL, &report);
	assert_said(&report, "E %/a:1:1: unknown key 'x'\nE %/c:2:7: " QUOTE
			     "E %/d: cannot be read: No such file or directory\n"
			     "E %/e: cannot be read: Too many levels of symbolic links\n");
}

static void test_file_errors(void **state)
{
	static const struct {
		const char *name, *message;
	} rows_of_files[] = {
		{"missing", "E %/missing: cannot be read: No such file or directory\n"},
		{"fifo", "E %/fifo: is neither a regular file nor a directory\n"},
		{"large", "E %/large: the file is larger than 64 MB\n"},
		{"holes", "E %/holes:1:1: a NUL byte: the file is no text in UTF-8\n"},
		{"good/", "E %/good/: cannot be read: Not a directory\n"},
	};
	struct tls_report report = {0};
	struct tls_config *c;

	(void)state;
	assert_int_equal(mkfifo(in_folder("fifo"), 0600), 0);
	write_file("large", "");
	write_file("holes", "");
	write_file("good", S);
	assert_int_equal(truncate(in_folder("large"), TLS_CONFIG_MAX_FILE + 1), 0);
	assert_int_equal(truncate(in_folder("holes"), 1 << 20), 0);
	for (size_t i = 0; i < COUNT(rows_of_files); i++) {
		assert_null(tls_config_read(in_folder(rows_of_files[i].name), NULL, &report));
		assert_said(&report, rows_of_files[i].message);
	}
	c = tls_config_read(in_folder("good"), NULL, &report);
	assert_non_null(c);
	assert_string_equal(c->sections[0].file, in_folder("good"));
	assert_said(&report, "");
	tls_config_free(c);
}

/* Of one section of a configuration; equal pointers mean that its file was not read again. */
static const char *crl_of(const struct tls_config *c, size_t section)
{
	assert_true(section < c->count);
	return c->sections[section].settings.crl;
}

static void test_unchanged_files(void **state)
{
	struct tls_report report = {0};
	struct tls_config *first, *second, *third;
	const char *kept;

	(void)state;
	write_file("a", S "crl = a1");
	write_file("b", "[s:any]\ncrl = b1");
	write_file("c", "[c:any]\ncrl = c1");
	first = read_folder(NULL, &report);
	second = read_folder(first, &report);
	assert_ptr_not_equal(crl_of(first, 0), crl_of(second, 0)); /* it might still change */
	tls_config_free(first);
	assert_int_equal(nanosleep(&(struct timespec){2, 100000000}, NULL), 0);
	first = read_folder(second, &report);
	tls_config_free(second);
	write_file("b", "[s:any]\ncrl = b2"); /* of the same size */
	assert_int_equal(unlink(in_folder("c")), 0);
	write_file("d", "[c:any]\ncrl = d1");
	second = read_folder(first, &report);
	kept = crl_of(first, 0);
	assert_ptr_equal(crl_of(second, 0), kept);
	assert_string_equal(crl_of(first, 1), "b1");
	assert_string_equal(crl_of(second, 1), "b2");
	assert_string_equal(crl_of(second, 2), "d1");
	tls_config_free(first);
	assert_int_equal(chmod(in_folder("a"), 0600), 0);
	third = read_folder(second, &report);
	assert_ptr_not_equal(crl_of(third, 0), kept);
	assert_string_equal(crl_of(second, 0), "a1");
	tls_config_free(second);
	assert_string_equal(crl_of(third, 0), "a1");
	assert_string_equal(crl_of(third, 1), "b2");
	assert_string_equal(said(&report), "");
	tls_config_free(third);
}

/* ---- the sample ---- */

static char *read_sample(void)
{
	FILE *f = fopen("tls.cfg", "r");
	char *text = calloc(1, 1 << 16);

	assert_non_null(f);
	assert_non_null(text);
	assert_in_range(fread(text, 1, (1 << 16) - 1, f), 1, (1 << 16) - 2);
	fclose(f);
	return text;
}

static void test_sample(void **state)
{
	struct tls_report report = {0};
	struct tls_config *c = tls_config_read("tls.cfg", NULL, &report);
	char *text = read_sample();

	(void)state;
	assert_string_equal(said(&report), "");
	assert_int_equal(c->count, 2);
	assert_string_equal(c->sections[0].settings.certificate, "cert.pem");
	for (size_t i = 0; i < COUNT(rows); i++)
		if (!strstr(text, rows[i].name))
			fail_msg("tls.cfg does not show %s", rows[i].name);
	tls_config_free(c);
	free(text);
}

/* What is commented out in the sample is right, too, once somebody wants it. */
static void test_sample_comments(void **state)
{
	struct tls_report report = {0};
	char *text = read_sample();
	struct tls_config *c;

	(void)state;
	for (char *p = text; p; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (p[0] == '#' && p[1] != ' ' && p[1] != '\n')
			*p = ' ';
	}
	c = parse(text, strlen(text), &report);
	assert_string_equal(said(&report), "");
	assert_true(c->count > 4);
#define TLS_ROW(field, ...)                                                                        \
	{                                                                                          \
		bool found = false;                                                                \
		for (size_t i = 0; i < c->count; i++)                                              \
			found |= c->sections[i].lines.field != 0;                                  \
		if (!found)                                                                        \
			fail_msg("tls.cfg does not set " #field);                                  \
	}
	TLS_DOMAIN_PARAMS(TLS_ROW, TLS_ROW)
#undef TLS_ROW
	tls_config_free(c);
	free(text);
}

#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_example_18),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_no_memory),
		cmocka_unit_test(test_nul),
		cmocka_unit_test(test_long_lines),
		cmocka_unit_test(test_many_errors),
		cmocka_unit_test(test_many_sections),
		cmocka_unit_test(test_linear),
		IN_FOLDER(test_directory),
		IN_FOLDER(test_directory_errors),
		IN_FOLDER(test_file_errors),
		IN_FOLDER(test_unchanged_files),
		cmocka_unit_test(test_sample),
		cmocka_unit_test(test_sample_comments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
