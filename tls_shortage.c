/* SPDX-License-Identifier: ISC */
#include "tls_shortage.h"

#include "tls_log.h"
#include "tls_rare.h"

#include "core/mem/shm_mem.h"
#include "core/timer.h"

/* Free shared memory that the thresholds' default asks for, per process: the buffers that each may
 * want at the same moment. */
#define LOW_MEM_KB_1 32
#define LOW_MEM_KB_2 16

/* In shared memory: refusals that no line has told of yet. */
struct untold {
	atomic_uint connections, operations;
	atomic_uint next; /* tick from which on a line may be written */
};

static struct untold *untold;
static unsigned processes = 1;

static unsigned long limit_kb(int threshold, unsigned default_kb)
{
	return threshold < 0 ? (unsigned long)default_kb * processes : (unsigned long)threshold;
}

static bool is_below(unsigned long limit)
{
	return limit > 0 && shm_available() / 1024 < limit;
}

static void warn_if_below(const char *param, int threshold, unsigned default_kb,
			  const char *refused)
{
	unsigned long limit = limit_kb(threshold, default_kb);

	if (is_below(limit))
		LM_WARN("tls: %s=%d asks for %lu KB of free shared memory, but SER has only %lu KB "
			"when it starts: %s will be refused\n",
			param, threshold, limit, shm_available() / 1024, refused);
}

void tls_shortage_start(unsigned number)
{
	processes = number;
	warn_if_below("low_mem_threshold1", cfg_get(tls, tls_cfg, low_mem_threshold1), LOW_MEM_KB_1,
		      "every connection");
	warn_if_below("low_mem_threshold2", cfg_get(tls, tls_cfg, low_mem_threshold2), LOW_MEM_KB_2,
		      "every handshake");
}

/* True for the one process that may write this second's line. */
static bool may_tell(void)
{
	ticks_t now = get_ticks_raw();
	unsigned next = atomic_load(&untold->next);

	return TICKS_GE(now, next) &&
	       atomic_compare_exchange_strong(&untold->next, &next, now + S_TO_TICKS(1));
}

static TLS_RARE void tell(const struct tls_conn *conn, const char *reason, unsigned long limit)
{
	unsigned connections, operations;

	if (!may_tell())
		return;
	connections = atomic_exchange(&untold->connections, 0);
	operations = atomic_exchange(&untold->operations, 0);
	tls_log_conn(L_WARN, conn, "refused",
		     "reason=\"%s\" free_kb=%lu limit_kb=%lu connections=%u operations=%u", reason,
		     shm_available() / 1024, limit, connections, operations);
}

bool tls_shortage_refuses_connection(const struct tls_conn *conn)
{
	unsigned long limit = limit_kb(cfg_get(tls, tls_cfg, low_mem_threshold1), LOW_MEM_KB_1);

	if (!is_below(limit))
		return false;
	atomic_fetch_add(&untold->connections, 1);
	tell(conn, "shared memory is low (low_mem_threshold1)", limit);
	return true;
}

/* The host's lock for free memory is not taken for every message, but once per tick. */
static bool operations_are_below(int threshold, unsigned long limit)
{
	static ticks_t looked;
	static int looked_for = INT_MIN;
	static bool below;
	ticks_t now = get_ticks_raw();

	if (now != looked || threshold != looked_for) {
		looked = now;
		looked_for = threshold;
		below = is_below(limit);
	}
	return below;
}

bool tls_shortage_refuses_operation(const struct tls_conn *conn, bool takes_memory)
{
	int threshold = cfg_get(tls, tls_cfg, low_mem_threshold2);
	unsigned long limit = limit_kb(threshold, LOW_MEM_KB_2);

	if ((!takes_memory && tls_shortage_is_for_memory()) ||
	    !operations_are_below(threshold, limit))
		return false;
	atomic_fetch_add(&untold->operations, 1);
	tell(conn, "shared memory is low (low_mem_threshold2)", limit);
	return true;
}

void tls_shortage_failed(const struct tls_conn *conn, bool whole_connection)
{
	atomic_fetch_add(whole_connection ? &untold->connections : &untold->operations, 1);
	tell(conn, "out of shared memory", 0);
}

/* Tells of the refusals after the last line, once there are no more that would. */
static void shortage_timer(unsigned int ticks, void *unused)
{
	unsigned connections = atomic_load(&untold->connections);
	unsigned operations = atomic_load(&untold->operations);

	(void)ticks;
	(void)unused;
	if (connections + operations == 0 || !may_tell())
		return;
	connections = atomic_exchange(&untold->connections, 0);
	operations = atomic_exchange(&untold->operations, 0);
	LM_WARN("tls: refused for lack of shared memory, too: free_kb=%lu connections=%u "
		"operations=%u\n",
		shm_available() / 1024, connections, operations);
}

int tls_shortage_init(void)
{
	untold = shm_malloc(sizeof(*untold));
	if (!untold) {
		LM_ERR("tls: out of shared memory\n");
		return -1;
	}
	atomic_init(&untold->connections, 0);
	atomic_init(&untold->operations, 0);
	atomic_init(&untold->next, get_ticks_raw());
	if (register_timer(shortage_timer, NULL, 1) >= 0)
		return 0;
	LM_ERR("tls: cannot register a timer\n");
	return -1;
}

void tls_shortage_destroy(void)
{
	if (untold)
		shm_free(untold);
	untold = NULL;
}
