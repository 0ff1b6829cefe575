/* SPDX-License-Identifier: ISC */
/* What the module expects of the OpenSSL library that it finds at run time. */
#ifndef TLS_WORKAROUND_H
#define TLS_WORKAROUND_H

#include "tls_report.h"

/*
 * Compares the library at run time (its OpenSSL_version_num() and text) with the one that the
 * module was compiled against. A difference is an error, or with force a warning.
 */
void tls_workaround_check_version(unsigned long number, const char *text, int force,
				  struct tls_report *report);

#endif
