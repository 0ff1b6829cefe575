/* SPDX-License-Identifier: ISC */
/* The module's RPC commands, one row each; doc/ lists their fields. */
#ifndef TLS_RPC_H
#define TLS_RPC_H

#include "core/rpc.h"

extern rpc_export_t tls_rpc_methods[];

#endif
