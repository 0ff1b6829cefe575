/* SPDX-License-Identifier: ISC */
/* The module's functions for routes, and for scripts in other languages; doc/functions.md has them.
 */
#ifndef TLS_FUNCTION_H
#define TLS_FUNCTION_H

#include "core/kemi.h"
#include "core/sr_module.h"

extern cmd_export_t tls_functions[];
extern sr_kemi_t tls_kemi_functions[];

#endif
