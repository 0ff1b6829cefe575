/* SPDX-License-Identifier: ISC */
#include "tls_reminder.h"

#include "tls_engine.h"
#include "tls_expiry.h"
#include "tls_log.h"

#include "core/pt.h"
#include "core/timer.h"

#include <time.h>

/* Seconds between looks at the clock. It may jump, as that of a suspended machine does. */
#define PERIOD 10

/* Start and reload have their own warnings, so the first day begins with the start. */
static void remind(unsigned int ticks, void *unused)
{
	static int64_t last;
	int64_t before = last;
	struct tls_engine_slot *slot;

	(void)ticks;
	(void)unused;
	if (!tls_expiry_is_due((int64_t)time(NULL), &last))
		return;
	slot = tls_engine_slot((unsigned)process_no);
	if (slot) {
		slot->request.op = TLS_ENGINE_EXPIRY;
		if (tls_engine_call(slot, (unsigned)cfg_get(tls, tls_cfg, engine_timeout)) == 0) {
			tls_log_report((const char *)slot->out);
			return;
		}
	}
	last = before; /* at the next look again */
}

int tls_reminder_init(void)
{
	if (register_timer(remind, NULL, PERIOD) >= 0)
		return 0;
	LM_ERR("tls: cannot register a timer\n");
	return -1;
}
