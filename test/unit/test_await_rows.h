/* SPDX-License-Identifier: ISC */
/*
 * What a client may send when its Finished is due, and what must come of it. Included by
 * test_await.c alone.
 */
#ifndef TEST_AWAIT_ROWS_H
#define TEST_AWAIT_ROWS_H

/* One record, or several alike: bytes of the right Finished, then hex, then zeros. */
struct part {
	uint8_t type;     /* the inner type; RAW: hex is the record itself */
	uint8_t from, to; /* the first of those bytes, and the one after the last */
	const char *hex;
	unsigned int zeros, repeat;
};

struct row {
	const char *name;
	struct part parts[4];
	/* of the last record; all before it must be taken with 1 */
	int rc, sent, received;
	uint8_t flags;
	const char *error; /* NULL: none, or any */
};

#define ALL 255 /* of the Finished */

#define PART(from, to)                                                                             \
	{                                                                                          \
		22, (from), (to), "", 0, 1                                                         \
	}
#define FINISHED PART(0, ALL)
#define RECORD(type, hex)                                                                          \
	{                                                                                          \
		(type), 0, 0, (hex), 0, 1                                                          \
	}
#define RECORDS(type, hex, times)                                                                  \
	{                                                                                          \
		(type), 0, 0, (hex), 0, (times)                                                    \
	}
#define MESSAGE(hex) RECORD(22, hex)
#define CCS          "140303000101"
#define PLAIN_ALERT  "15030300020228"
#define CANCELED     RECORD(21, "015a")

/* The fields from rc on. */
#define DONE             1, -1, -1, 0, NULL
#define WAITING          1, -1, -1, TLS_STREAM_AWAITS, NULL
#define WARNED           1, -1, TLS_ALERT_USER_CANCELED, TLS_STREAM_AWAITS, NULL
#define DEAD(sent, why)  -1, (sent), -1, DEAD_FLAGS, (why)
#define UNEXPECTED(why)  DEAD(TLS_ALERT_UNEXPECTED_MESSAGE, why)
#define UNDECODABLE(why) DEAD(TLS_ALERT_DECODE_ERROR, why)
#define KILLED(received)                                                                           \
	-1, -1, (received), DEAD_FLAGS, "the peer ended the handshake with an alert"
#define CLOSED                                                                                     \
	-1, -1, TLS_ALERT_CLOSE_NOTIFY, DEAD_FLAGS | TLS_STREAM_READ_CLOSED,                       \
		"the peer ended the handshake with an alert"

#define BAD_TYPE    "unexpected record type"
#define BAD_MESSAGE "unexpected handshake message"
#define BAD_LENGTH  "bad length of Finished"
#define BAD_ALERT   "malformed alert"
#define BEHIND      "data after a Finished in its record"
#define INTERLEAVED "record inside a handshake message"
#define BAD_MAC     "record does not authenticate"

static const struct row rows[] = {
	/* the Finished, whole, in parts, padded */
	{"finished", {FINISHED}, DONE},
	{"first byte alone", {PART(0, 1), PART(1, ALL)}, DONE},
	{"header alone", {PART(0, 4), PART(4, ALL)}, DONE},
	{"four parts", {PART(0, 2), PART(2, 5), PART(5, 20), PART(20, ALL)}, DONE},
	{"part of the header", {PART(0, 3)}, WAITING},
	{"header", {PART(0, 4)}, WAITING},
	{"all but a byte of the shorter one", {PART(0, 35)}, WAITING},
	{"padded", {{0, 0, ALL, "16", 40, 1}}, DONE},
	{"much padded", {{0, 0, ALL, "16", 16000, 1}}, DONE},
	{"padded part", {{0, 0, 4, "16", 40, 1}, {0, 4, ALL, "16", 40, 1}}, DONE},
	/* a Finished that is none */
	{"bad header", {MESSAGE("14000024")}, UNDECODABLE(BAD_LENGTH)},
	{"shorter", {MESSAGE("1400001f")}, UNDECODABLE(BAD_LENGTH)},
	{"without a body", {MESSAGE("14000000")}, UNDECODABLE(BAD_LENGTH)},
	{"of TLS 1.2", {{22, 0, 0, "1400000c", 12, 1}}, UNDECODABLE(BAD_LENGTH)},
	{"much longer", {MESSAGE("14010020")}, UNDECODABLE(BAD_LENGTH)},
	{"bad header in parts", {MESSAGE("14"), MESSAGE("000024")}, UNDECODABLE(BAD_LENGTH)},
	{"wrong in its first part",
	 {{22, 0, 4, "00", 0, 1}, PART(5, ALL)},
	 DEAD(TLS_ALERT_DECRYPT_ERROR, "bad Finished")},
	{"a byte behind it", {{22, 0, ALL, "00", 0, 1}}, UNEXPECTED(BEHIND)},
	{"a byte behind its last part", {PART(0, 9), {22, 9, ALL, "00", 0, 1}}, UNEXPECTED(BEHIND)},
	{"a KeyUpdate behind it", {{22, 0, ALL, "1800000100", 0, 1}}, UNEXPECTED(BEHIND)},
	{"most that fits", {{22, 0, ALL, "", 16300, 1}}, UNEXPECTED(BEHIND)},
	/* other messages */
	{"certificate", {MESSAGE("0b00000400000000")}, UNEXPECTED(BAD_MESSAGE)},
	{"a byte of one", {MESSAGE("0b")}, UNEXPECTED(BAD_MESSAGE)},
	{"key update", {MESSAGE("1800000100")}, UNEXPECTED(BAD_MESSAGE)},
	{"client hello", {{22, 0, 0, "01000040", 64, 1}}, UNEXPECTED(BAD_MESSAGE)},
	{"end of early data", {MESSAGE("05000000")}, UNEXPECTED(BAD_MESSAGE)},
	{"message before it", {{22, 0, 0, "0b00000400000000", 16000, 1}}, UNEXPECTED(BAD_MESSAGE)},
	/* other records */
	{"data", {RECORD(23, "3132")}, UNEXPECTED(BAD_TYPE)},
	{"empty data", {RECORD(23, "")}, UNEXPECTED(BAD_TYPE)},
	{"data inside it", {PART(0, 10), RECORD(23, "31")}, UNEXPECTED(INTERLEAVED)},
	{"empty data inside it", {PART(0, 10), RECORD(23, "")}, UNEXPECTED(INTERLEAVED)},
	{"heartbeat", {RECORD(24, "01")}, UNEXPECTED(BAD_TYPE)},
	{"protected ccs", {RECORD(20, "01")}, UNEXPECTED(BAD_TYPE)},
	{"only padding", {{0, 0, 0, "", 40, 1}}, UNEXPECTED(BAD_TYPE)},
	{"empty", {MESSAGE("")}, UNEXPECTED(NULL)},
	{"empty inside it", {PART(0, 10), MESSAGE("")}, UNEXPECTED(NULL)},
	{"padded empty", {{0, 0, 0, "16", 9, 1}}, UNEXPECTED(NULL)},
	/* without protection */
	{"handshake", {RECORD(RAW, "160303000414000020")}, UNEXPECTED(BAD_TYPE)},
	{"clear data",
	 {RECORD(RAW, "170303000401020304")},
	 DEAD(TLS_ALERT_BAD_RECORD_MAC, BAD_MAC)},
	{"a length of zero", {RECORD(RAW, "1703030000")}, DEAD(TLS_ALERT_BAD_RECORD_MAC, BAD_MAC)},
	{"oversized",
	 {RECORD(RAW, "1703034101")},
	 DEAD(TLS_ALERT_RECORD_OVERFLOW, "oversized record")},
	{"version",
	 {RECORD(RAW, "1703010020")},
	 DEAD(TLS_ALERT_PROTOCOL_VERSION, "bad record version")},
	{"no record at all", {RECORD(RAW, "4f5054494f4e53")}, UNEXPECTED(BAD_TYPE)},
	/* ChangeCipherSpec: RFC 8446 section 5 */
	{"ccs", {RECORD(RAW, CCS)}, WAITING},
	{"ccs, finished", {RECORD(RAW, CCS), FINISHED}, DONE},
	{"ccs inside it", {PART(0, 10), RECORD(RAW, CCS), PART(10, ALL)}, DONE},
	{"five ccs, finished", {RECORDS(RAW, CCS, 5), FINISHED}, DONE},
	{"six ccs", {RECORDS(RAW, CCS, 6)}, UNEXPECTED("too many ChangeCipherSpecs")},
	{"six ccs, some inside it",
	 {RECORDS(RAW, CCS, 3), PART(0, 10), RECORDS(RAW, CCS, 3)},
	 UNEXPECTED("too many ChangeCipherSpecs")},
	{"ccs of an old version", {RECORD(RAW, "140301000101"), FINISHED}, DONE},
	{"ccs of no version", {RECORD(RAW, "140203000101")}, UNEXPECTED(BAD_TYPE)},
	{"ccs of another byte", {RECORD(RAW, "140303000102")}, UNEXPECTED(BAD_TYPE)},
	{"ccs of two bytes", {RECORD(RAW, "14030300020101")}, UNEXPECTED(BAD_TYPE)},
	{"ccs of no byte", {RECORD(RAW, "140303000001")}, UNEXPECTED(BAD_TYPE)},
	/* alerts */
	{"fatal", {RECORD(21, "0228")}, KILLED(40)},
	{"fatal, level of a warning", {RECORD(21, "012a")}, KILLED(42)},
	{"unknown alert", {RECORD(21, "02fe")}, KILLED(254)},
	{"close_notify", {RECORD(21, "0100")}, CLOSED},
	{"user_canceled", {CANCELED}, WARNED},
	{"user_canceled, finished", {CANCELED, FINISHED}, DONE},
	{"user_canceled, close_notify", {CANCELED, RECORD(21, "0100")}, CLOSED},
	{"five user_canceled", {RECORDS(21, "015a", 5), FINISHED}, DONE},
	{"six user_canceled",
	 {RECORDS(21, "015a", 6)},
	 -1,
	 TLS_ALERT_UNEXPECTED_MESSAGE,
	 TLS_ALERT_USER_CANCELED,
	 DEAD_FLAGS,
	 "too many warning alerts"},
	{"alert inside it", {PART(0, 10), RECORD(21, "0228")}, UNEXPECTED(INTERLEAVED)},
	{"user_canceled inside it", {PART(0, 1), CANCELED}, UNEXPECTED(INTERLEAVED)},
	{"half an alert", {RECORD(21, "02")}, UNDECODABLE(BAD_ALERT)},
	{"two alerts", {RECORD(21, "015a0100")}, UNDECODABLE(BAD_ALERT)},
	/* RFC 8446 section 5.4 */
	{"empty alert", {RECORD(21, "")}, UNEXPECTED(NULL)},
	{"padded empty alert", {{0, 0, 0, "15", 9, 1}}, UNEXPECTED(NULL)},
	/* alerts of a client without keys */
	{"plain alert", {RECORD(RAW, PLAIN_ALERT)}, KILLED(40)},
	{"plain, of an old version", {RECORD(RAW, "15030100020246")}, KILLED(70)},
	{"plain close_notify", {RECORD(RAW, "15030300020100")}, CLOSED},
	{"plain user_canceled", {RECORD(RAW, "1503030002015a"), FINISHED}, DONE},
	{"plain behind a ccs", {RECORD(RAW, CCS), RECORD(RAW, PLAIN_ALERT)}, KILLED(40)},
	{"plain behind a protected one",
	 {CANCELED, RECORD(RAW, PLAIN_ALERT)},
	 UNEXPECTED(BAD_TYPE)},
	{"plain inside it", {PART(0, 10), RECORD(RAW, PLAIN_ALERT)}, UNEXPECTED(BAD_TYPE)},
	{"plain, too short", {RECORD(RAW, "15030300010228")}, UNEXPECTED(BAD_TYPE)},
	{"plain, too long", {RECORD(RAW, "1503030003022800")}, UNEXPECTED(BAD_TYPE)},
	{"plain, much too long", {RECORD(RAW, "15030301020228")}, UNEXPECTED(BAD_TYPE)},
	{"plain, of no version", {RECORD(RAW, "15020300020228")}, UNEXPECTED(BAD_TYPE)},
};

#endif
