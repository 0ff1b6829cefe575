/* SPDX-License-Identifier: ISC */
/* What routes can ask of the connection that a message came in on. */
#ifndef TLS_SELECT_H
#define TLS_SELECT_H

#include "core/parser/msg_parser.h"

#include <stdbool.h>

/* True if the message came over TLS (or WSS) from a peer that showed a certificate whose
 * chain verified. */
bool tls_select_peer_verified(const struct sip_msg *msg);

#endif
