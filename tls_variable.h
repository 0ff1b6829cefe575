/* SPDX-License-Identifier: ISC */
/* The pseudo-variables: $tls_version, $tls_peer_subject_cn and the others of doc/selects.md. */
#ifndef TLS_VARIABLE_H
#define TLS_VARIABLE_H

#include "core/kemi.h"
#include "core/pvar.h"

/* For the module's exports; filled in by tls_variable_init(). */
extern pv_export_t tls_variables[];

/* Before the host takes the exports. */
void tls_variable_init(void);

/* The value of the variable of that name, without the dollar sign; what there is no value of is an
 * empty text. Valid until the next call. */
sr_kemi_xval_t *tls_variable_cget(sip_msg_t *msg, str *name);

#endif
