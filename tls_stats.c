/* SPDX-License-Identifier: ISC */
#include "tls_stats.h"

#include "tls_conn.h"
#include "tls_counter.h"

#include "core/counters.h"
#include "core/dprint.h"
#include "core/pt.h"
#include "core/tcp_info.h"

#include <time.h>

#define NO_CERTIFICATE 99999 /* days */

/* The host prints values without a sign. */
static counter_val_t days_left(void)
{
	int64_t expires = tls_counter_get(TLS_COUNT_certificate_expires);
	int64_t left = expires - (int64_t)time(NULL);

	if (expires == 0)
		return NO_CERTIFICATE;
	return left > 0 ? (counter_val_t)(left / 86400) : 0;
}

static counter_val_t ask(enum tls_counter row)
{
	struct tcp_gen_info info;

	switch (row) {
	case TLS_COUNT_opened_connections:
		tcp_get_info(&info);
		return info.tls_connections_no;
	case TLS_COUNT_max_connections:
		tcp_get_info(&info);
		return info.tls_max_connections;
	case TLS_COUNT_clear_text_write_queued_bytes:
		return (counter_val_t)tls_conn_queued_bytes();
	case TLS_COUNT_engine_sessions:
		return (counter_val_t)tls_engine_sessions();
	case TLS_COUNT_certificate_days_left:
		return days_left();
	default:
		return 0;
	}
}

static counter_val_t read_row(counter_handle_t handle, void *param)
{
	enum tls_counter row = (enum tls_counter)(long)param;

	(void)handle;
	return tls_counter_rows[row].kind == TLS_COUNTER_ASK ? ask(row)
							     : (counter_val_t)tls_counter_get(row);
}

int tls_stats_init(void)
{
	for (long row = 0; row < TLS_COUNTER_COUNT; row++) {
		const struct tls_counter_row *r = &tls_counter_rows[row];

		if (counter_register(NULL, "tls", r->name, CNT_F_NO_RESET, read_row, (void *)row,
				     r->help, 0) != 0) {
			LM_ERR("tls: cannot register the counter %s\n", r->name);
			return -1;
		}
	}
	return 0;
}

void tls_stats_note_peak(void)
{
	struct tcp_gen_info info;

	tcp_get_info(&info);
	tls_counter_raise((unsigned)process_no, TLS_COUNT_peak_connections,
			  info.tls_connections_no);
}
