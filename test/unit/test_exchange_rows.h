/* SPDX-License-Identifier: ISC */
/*
 * What a client may send when the server has said ServerHelloDone, and what must come of it; and
 * what a ServerHello may say. Included by test_exchange.c alone.
 */
#ifndef TEST_EXCHANGE_ROWS_H
#define TEST_EXCHANGE_ROWS_H

enum how {
	CLEAR,  /* a record without protection */
	SEALED, /* with the client's keys */
	RAW,    /* hex is the record itself */
};

/* One record, or several alike: bytes of the message that is due, then hex, then zeros. */
struct part {
	uint8_t how, type;
	uint8_t from, to; /* the first of those bytes, and the one after the last */
	const char *hex;
	unsigned int zeros, repeat;
};

struct row {
	const char *name;
	struct part parts[6];
	/* of the last record; all before it must be taken with 1 */
	int rc, sent, received;
	uint8_t flags;
	const char *error; /* NULL: none */
};

#define ALL 255 /* of the message */

#define PART(how, from, to)                                                                        \
	{                                                                                          \
		(how), 22, (from), (to), "", 0, 1                                                  \
	}
#define RECORDS(how, type, hex, times)                                                             \
	{                                                                                          \
		(how), (type), 0, 0, (hex), 0, (times)                                             \
	}
#define RECORD(how, type, hex) RECORDS(how, type, hex, 1)
#define BEHIND(how, from, hex)                                                                     \
	{                                                                                          \
		(how), 22, (from), ALL, (hex), 0, 1                                                \
	}
#define ZEROS(how, hex, zeros)                                                                     \
	{                                                                                          \
		(how), 22, 0, 0, (hex), (zeros), 1                                                 \
	}
#define MESSAGE(how, hex) RECORD(how, 22, hex)
#define BYTES(hex)        RECORD(RAW, 0, hex)
#define KEX               PART(CLEAR, 0, ALL)
#define CHANGE            RECORD(CLEAR, 20, "01")
#define FINISHED          PART(SEALED, 0, ALL)

/* The fields from rc on. */
#define DONE             1, -1, -1, 0, NULL
#define WAITING          1, -1, -1, WAIT_FLAGS, NULL
#define WARNED(received) 1, -1, (received), WAIT_FLAGS, NULL
#define DEAD(sent, why)  -1, (sent), -1, DEAD_FLAGS, (why)
#define UNEXPECTED(why)  DEAD(TLS_ALERT_UNEXPECTED_MESSAGE, why)
#define UNDECODABLE(why) DEAD(TLS_ALERT_DECODE_ERROR, why)
#define BAD_MAC          DEAD(TLS_ALERT_BAD_RECORD_MAC, "record does not authenticate")
#define KILLED(received)                                                                           \
	-1, -1, (received), DEAD_FLAGS, "the peer ended the handshake with an alert"
#define CLOSED                                                                                     \
	-1, -1, TLS_ALERT_CLOSE_NOTIFY, DEAD_FLAGS | TLS_STREAM_READ_CLOSED,                       \
		"the peer ended the handshake with an alert"
#define WARNED_TOO_OFTEN                                                                           \
	-1, TLS_ALERT_UNEXPECTED_MESSAGE, TLS_ALERT_USER_CANCELED, DEAD_FLAGS,                     \
		"too many warning alerts"

#define BAD_TYPE     "unexpected record type"
#define BAD_MESSAGE  "unexpected handshake message"
#define KEX_LENGTH   "bad length of ClientKeyExchange"
#define KEX_BEHIND   "data after a ClientKeyExchange in its record"
#define SHARE_LENGTH "bad length of a key share"
#define FIN_LENGTH   "bad length of Finished"
#define FIN_BEHIND   "data after a Finished in its record"
#define BAD_ALERT    "malformed alert"
#define INTERLEAVED  "record inside a handshake message"
#define EMPTY        "empty record"
#define BAD_CHANGE   "bad ChangeCipherSpec"
#define WARNING      "015a"

static const struct row rows[] = {
	/* RFC 5246 section 7.3: whole, in parts, and what is not all of it */
	{"all", {KEX, CHANGE, FINISHED}, DONE},
	{"key exchange", {KEX}, WAITING},
	{"change", {KEX, CHANGE}, WAITING},
	{"first bytes alone",
	 {PART(CLEAR, 0, 1), PART(CLEAR, 1, ALL), CHANGE, PART(SEALED, 0, 1), PART(SEALED, 1, ALL)},
	 DONE},
	{"headers alone",
	 {PART(CLEAR, 0, 4), PART(CLEAR, 4, ALL), CHANGE, PART(SEALED, 0, 4), PART(SEALED, 4, ALL)},
	 DONE},
	{"four parts",
	 {PART(CLEAR, 0, 2), PART(CLEAR, 2, 5), PART(CLEAR, 5, 36), PART(CLEAR, 36, ALL), CHANGE,
	  FINISHED},
	 DONE},
	{"part of the header", {PART(CLEAR, 0, 3)}, WAITING},
	{"header", {PART(CLEAR, 0, 4)}, WAITING},
	{"all but a byte", {PART(CLEAR, 0, 36)}, WAITING},
	{"all but a byte of the Finished", {KEX, CHANGE, PART(SEALED, 0, 15)}, WAITING},
	/* a ClientKeyExchange that is none: RFC 8422 section 5.7 */
	{"longer", {MESSAGE(CLEAR, "10000022")}, UNDECODABLE(KEX_LENGTH)},
	{"shorter", {MESSAGE(CLEAR, "10000020")}, UNDECODABLE(KEX_LENGTH)},
	{"much longer", {MESSAGE(CLEAR, "10010021")}, UNDECODABLE(KEX_LENGTH)},
	{"very much longer", {MESSAGE(CLEAR, "10ff0021")}, UNDECODABLE(KEX_LENGTH)},
	{"without a body", {MESSAGE(CLEAR, "10000000")}, UNDECODABLE(KEX_LENGTH)},
	{"a point of P-256", {ZEROS(CLEAR, "100000424104", 64)}, UNDECODABLE(KEX_LENGTH)},
	{"bad header in parts",
	 {MESSAGE(CLEAR, "10"), MESSAGE(CLEAR, "000022")},
	 UNDECODABLE(KEX_LENGTH)},
	{"shorter share", {ZEROS(CLEAR, "100000211f", 32)}, UNDECODABLE(SHARE_LENGTH)},
	{"longer share", {ZEROS(CLEAR, "1000002121", 32)}, UNDECODABLE(SHARE_LENGTH)},
	{"empty share", {ZEROS(CLEAR, "1000002100", 32)}, UNDECODABLE(SHARE_LENGTH)},
	{"a byte behind it", {BEHIND(CLEAR, 0, "00")}, UNEXPECTED(KEX_BEHIND)},
	{"a byte behind its last part",
	 {PART(CLEAR, 0, 9), BEHIND(CLEAR, 9, "00")},
	 UNEXPECTED(KEX_BEHIND)},
	{"a Finished behind it", {BEHIND(CLEAR, 0, "1400000c")}, UNEXPECTED(KEX_BEHIND)},
	{"most that fits", {{CLEAR, 22, 0, ALL, "", 16347, 1}}, UNEXPECTED(KEX_BEHIND)},
	/* other messages */
	{"certificate", {MESSAGE(CLEAR, "0b00000300000000")}, UNEXPECTED(BAD_MESSAGE)},
	{"a byte of one", {MESSAGE(CLEAR, "0b")}, UNEXPECTED(BAD_MESSAGE)},
	{"client hello", {ZEROS(CLEAR, "01000040", 64)}, UNEXPECTED(BAD_MESSAGE)},
	{"clear Finished", {ZEROS(CLEAR, "1400000c", 12)}, UNEXPECTED(BAD_MESSAGE)},
	{"clear Finished behind", {KEX, ZEROS(CLEAR, "1400000c", 12)}, UNEXPECTED(BAD_MESSAGE)},
	{"key exchange twice",
	 {KEX, {CLEAR, 22, 0, 0, "1000002120", 32, 1}},
	 UNEXPECTED(BAD_MESSAGE)},
	{"certificate verify", {KEX, MESSAGE(CLEAR, "0f000004")}, UNEXPECTED(BAD_MESSAGE)},
	/* ChangeCipherSpec: RFC 5246 section 7.1; before the keys it is an attack (CVE-2014-0224)
	 */
	{"change first", {CHANGE}, UNEXPECTED("unexpected ChangeCipherSpec")},
	{"change inside", {PART(CLEAR, 0, 10), CHANGE}, UNEXPECTED(INTERLEAVED)},
	{"change behind a byte", {PART(CLEAR, 0, 1), CHANGE}, UNEXPECTED(INTERLEAVED)},
	{"change of another byte", {KEX, RECORD(CLEAR, 20, "02")}, UNDECODABLE(BAD_CHANGE)},
	{"change of zero", {KEX, RECORD(CLEAR, 20, "00")}, UNDECODABLE(BAD_CHANGE)},
	{"change of two bytes", {KEX, RECORD(CLEAR, 20, "0101")}, UNDECODABLE(BAD_CHANGE)},
	{"empty change", {KEX, RECORD(CLEAR, 20, "")}, UNEXPECTED(EMPTY)},
	{"empty change first", {RECORD(CLEAR, 20, "")}, UNEXPECTED(EMPTY)},
	{"change twice", {KEX, CHANGE, CHANGE}, UNEXPECTED(BAD_TYPE)},
	{"protected change", {KEX, CHANGE, RECORD(SEALED, 20, "01")}, UNEXPECTED(BAD_TYPE)},
	{"change inside the Finished",
	 {KEX, CHANGE, PART(SEALED, 0, 5), CHANGE},
	 UNEXPECTED(BAD_TYPE)},
	/* a Finished that is none */
	{"clear Finished behind the change", {KEX, CHANGE, ZEROS(CLEAR, "1400000c", 12)}, BAD_MAC},
	{"much in the clear", {KEX, CHANGE, ZEROS(CLEAR, "1400000c", 120)}, BAD_MAC},
	{"without the change", {KEX, ZEROS(RAW, "1603030028", 40)}, UNEXPECTED(BAD_MESSAGE)},
	{"Finished of TLS 1.3",
	 {KEX, CHANGE, ZEROS(SEALED, "14000020", 32)},
	 UNDECODABLE(FIN_LENGTH)},
	{"Finished of SSL 3",
	 {KEX, CHANGE, ZEROS(SEALED, "14000024", 36)},
	 UNDECODABLE(FIN_LENGTH)},
	{"shorter Finished", {KEX, CHANGE, MESSAGE(SEALED, "1400000b")}, UNDECODABLE(FIN_LENGTH)},
	{"much longer Finished",
	 {KEX, CHANGE, MESSAGE(SEALED, "1401000c")},
	 UNDECODABLE(FIN_LENGTH)},
	{"Finished without a body",
	 {KEX, CHANGE, MESSAGE(SEALED, "14000000")},
	 UNDECODABLE(FIN_LENGTH)},
	{"wrong in its first part",
	 {KEX, CHANGE, {SEALED, 22, 0, 4, "00", 0, 1}, PART(SEALED, 5, ALL)},
	 DEAD(TLS_ALERT_DECRYPT_ERROR, "bad Finished")},
	{"all zeros",
	 {KEX, CHANGE, ZEROS(SEALED, "1400000c", 12)},
	 DEAD(TLS_ALERT_DECRYPT_ERROR, "bad Finished")},
	{"a byte behind the Finished",
	 {KEX, CHANGE, BEHIND(SEALED, 0, "00")},
	 UNEXPECTED(FIN_BEHIND)},
	{"a byte behind its end",
	 {KEX, CHANGE, PART(SEALED, 0, 9), BEHIND(SEALED, 9, "00")},
	 UNEXPECTED(FIN_BEHIND)},
	{"client hello behind it",
	 {KEX, CHANGE, BEHIND(SEALED, 0, "01000000")},
	 UNEXPECTED(FIN_BEHIND)},
	/* other protected messages and records */
	{"protected client hello",
	 {KEX, CHANGE, ZEROS(SEALED, "01000040", 64)},
	 UNEXPECTED(BAD_MESSAGE)},
	{"protected key exchange",
	 {KEX, CHANGE, ZEROS(SEALED, "1000002120", 32)},
	 UNEXPECTED(BAD_MESSAGE)},
	{"early data", {KEX, CHANGE, RECORD(SEALED, 23, "3132")}, UNEXPECTED(BAD_TYPE)},
	{"empty early data", {KEX, CHANGE, RECORD(SEALED, 23, "")}, UNEXPECTED(BAD_TYPE)},
	{"data inside the Finished",
	 {KEX, CHANGE, PART(SEALED, 0, 5), RECORD(SEALED, 23, "31")},
	 UNEXPECTED(INTERLEAVED)},
	{"protected and empty", {KEX, CHANGE, MESSAGE(SEALED, "")}, UNEXPECTED(EMPTY)},
	{"empty inside the Finished",
	 {KEX, CHANGE, PART(SEALED, 0, 5), MESSAGE(SEALED, "")},
	 UNEXPECTED(EMPTY)},
	/* records: RFC 5246 section 6.2.1 */
	{"empty", {MESSAGE(CLEAR, "")}, UNEXPECTED(EMPTY)},
	{"empty inside", {PART(CLEAR, 0, 10), MESSAGE(CLEAR, "")}, UNEXPECTED(EMPTY)},
	{"clear data", {RECORD(CLEAR, 23, "3132")}, UNEXPECTED(BAD_TYPE)},
	{"clear data behind", {KEX, RECORD(CLEAR, 23, "3132")}, UNEXPECTED(BAD_TYPE)},
	{"heartbeat", {RECORD(CLEAR, 24, "01")}, UNEXPECTED(BAD_TYPE)},
	{"type below all", {RECORD(CLEAR, 19, "01")}, UNEXPECTED(BAD_TYPE)},
	{"protected heartbeat", {KEX, CHANGE, RECORD(SEALED, 24, "01")}, UNEXPECTED(BAD_TYPE)},
	{"no record at all", {BYTES("4f5054494f4e53")}, UNEXPECTED(BAD_TYPE)},
	{"TLS 1.0",
	 {BYTES("160301002510000021")},
	 DEAD(TLS_ALERT_PROTOCOL_VERSION, "bad record version")},
	{"TLS 2",
	 {BYTES("160203002510000021")},
	 DEAD(TLS_ALERT_PROTOCOL_VERSION, "bad record version")},
	{"TLS 1.1 change",
	 {KEX, BYTES("140302000101")},
	 DEAD(TLS_ALERT_PROTOCOL_VERSION, "bad record version")},
	{"oversized", {BYTES("1603034001")}, DEAD(TLS_ALERT_RECORD_OVERFLOW, "oversized record")},
	{"oversized change",
	 {KEX, BYTES("140303ffff")},
	 DEAD(TLS_ALERT_RECORD_OVERFLOW, "oversized record")},
	{"oversized and protected",
	 {KEX, CHANGE, BYTES("1603034801")},
	 DEAD(TLS_ALERT_RECORD_OVERFLOW, "oversized record")},
	/* alerts: RFC 5246 section 7.2 */
	{"fatal", {RECORD(CLEAR, 21, "0228")}, KILLED(40)},
	{"fatal behind", {KEX, RECORD(CLEAR, 21, "022a")}, KILLED(42)},
	{"unknown alert", {RECORD(CLEAR, 21, "02fe")}, KILLED(254)},
	{"fatal and protected", {KEX, CHANGE, RECORD(SEALED, 21, "0233")}, KILLED(51)},
	{"close_notify", {RECORD(CLEAR, 21, "0100")}, CLOSED},
	{"close_notify behind", {KEX, RECORD(CLEAR, 21, "0100")}, CLOSED},
	{"close_notify, protected", {KEX, CHANGE, RECORD(SEALED, 21, "0100")}, CLOSED},
	{"user_canceled", {RECORD(CLEAR, 21, WARNING)}, WARNED(TLS_ALERT_USER_CANCELED)},
	{"other warning", {RECORD(CLEAR, 21, "0129")}, WARNED(41)},
	{"warning behind", {KEX, RECORD(CLEAR, 21, WARNING)}, WARNED(TLS_ALERT_USER_CANCELED)},
	{"protected warning",
	 {KEX, CHANGE, RECORD(SEALED, 21, WARNING)},
	 WARNED(TLS_ALERT_USER_CANCELED)},
	{"five warnings",
	 {RECORDS(CLEAR, 21, WARNING, 2), KEX, RECORDS(CLEAR, 21, WARNING, 2), CHANGE,
	  RECORD(SEALED, 21, WARNING), FINISHED},
	 DONE},
	{"six warnings", {RECORDS(CLEAR, 21, WARNING, 6)}, WARNED_TOO_OFTEN},
	{"six warnings, here and there",
	 {RECORDS(CLEAR, 21, WARNING, 2), KEX, RECORDS(CLEAR, 21, WARNING, 2), CHANGE,
	  RECORDS(SEALED, 21, WARNING, 2)},
	 WARNED_TOO_OFTEN},
	{"alert of no level",
	 {RECORD(CLEAR, 21, "0328")},
	 -1,
	 TLS_ALERT_ILLEGAL_PARAMETER,
	 40,
	 DEAD_FLAGS,
	 BAD_ALERT},
	{"half an alert", {RECORD(CLEAR, 21, "02")}, UNDECODABLE(BAD_ALERT)},
	{"two alerts", {RECORD(CLEAR, 21, "015a0100")}, UNDECODABLE(BAD_ALERT)},
	{"empty alert", {RECORD(CLEAR, 21, "")}, UNEXPECTED(EMPTY)},
	{"empty and protected", {KEX, CHANGE, RECORD(SEALED, 21, "")}, UNEXPECTED(EMPTY)},
	{"alert inside", {PART(CLEAR, 0, 10), RECORD(CLEAR, 21, "0228")}, UNEXPECTED(INTERLEAVED)},
	{"warning inside",
	 {PART(CLEAR, 0, 1), RECORD(CLEAR, 21, WARNING)},
	 UNEXPECTED(INTERLEAVED)},
	{"warning inside the Finished",
	 {KEX, CHANGE, PART(SEALED, 0, 1), RECORD(SEALED, 21, WARNING)},
	 UNEXPECTED(INTERLEAVED)},
	/* whoever has changed keys protects its alerts, too */
	{"clear alert behind the change", {KEX, CHANGE, RECORD(CLEAR, 21, "0228")}, BAD_MAC},
	{"clear close_notify behind it", {KEX, CHANGE, RECORD(CLEAR, 21, "0100")}, BAD_MAC},
};

/* A ServerHello from its version on, with a random that is put in: what precedes and follows it. */
struct hello_row {
	const char *name, *after;
	bool plain, ticket;
};

#define SUITE       "c02b"
#define EMS         "00170000"
#define TICKET      "00230000"
#define EXT(number) number "0000"

static const struct hello_row hello_rows[] = {
	{"extended master secret", "00" SUITE "000004" EMS, true, false},
	{"with a ticket", "00" SUITE "000008" TICKET EMS, true, true},
	{"ticket behind", "00" SUITE "000008" EMS TICKET, true, true},
	{"server_name", "00" SUITE "000008" EXT("0000") EMS, true, false},
	{"status_request", "00" SUITE "000008" EXT("0005") EMS, true, false},
	{"ec_point_formats", "00" SUITE "00000a000b00020100" EMS, true, false},
	{"ALPN", "00" SUITE "00000f" EMS "0010000700050473697073", true, false},
	{"signed certificate timestamps", "00" SUITE "00000c001200040002abcd" EMS, true, false},
	{"encrypt_then_mac", "00" SUITE "000008" EXT("0016") EMS, true, false},
	{"renegotiation_info", "00" SUITE "000009ff01000100" EMS, true, false},
	/* what is done elsewhere would be missing here */
	{"no extended master secret", "00" SUITE "000004" TICKET, false, true},
	{"no extensions", "00" SUITE "000000", false, false},
	{"no room for extensions", "00" SUITE "00", false, false},
	{"session id", "01aa" SUITE "000004" EMS, false, false},
	{"longest session id",
	 "20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" SUITE "000004" EMS,
	 false, false},
	{"session id that looks like extensions",
	 "20aaaa00aaaa" EMS "0023001c"
	 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" SUITE "000004" EMS,
	 false, false},
	{"a shorter one", "0daaaa00aaaa" EMS "00230009" SUITE "000004" EMS, false, false},
	{"compression", "00" SUITE "010004" EMS, false, false},
	{"max_fragment_length", "00" SUITE "000009" EMS "0001000101", false, false},
	{"heartbeat", "00" SUITE "000009" EMS "000f000101", false, false},
	{"next_proto_neg", "00" SUITE "000008" EMS EXT("3374"), false, false},
	{"client_certificate_type", "00" SUITE "000009" EMS "0013000100", false, false},
	{"use_srtp", "00" SUITE "000008" EMS EXT("000e"), false, false},
	{"supported_versions", "00" SUITE "00000a" EMS "002b00020304", false, false},
	{"unknown", "00" SUITE "000008" EMS EXT("dada"), false, false},
	{"unknown first", "00" SUITE "000008" EXT("dada") EMS, false, false},
	{"extension beyond the end", "00" SUITE "000008" EMS "00230001", false, true},
	{"much beyond the end", "00" SUITE "000008" EMS "0023ffff", false, true},
	{"half an extension", "00" SUITE "000007" EMS "002300", false, false},
	{"a byte of one", "00" SUITE "000005" EMS "00", false, false},
};

#endif
