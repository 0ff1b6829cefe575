/* SPDX-License-Identifier: ISC */
#include "tls_workaround.h"

#include "tls_compat.h"

void tls_workaround_check_version(unsigned long number, const char *text, int force,
				  struct tls_report *report)
{
	if (TLS_OPENSSL_LINE(number) == TLS_OPENSSL_LINE(TLS_BUILD_OPENSSL_NUMBER))
		return;
	if (force)
		tls_report_warning(report,
				   "the OpenSSL library is %s but the module was compiled with %s: "
				   "going on because tls_force_run is set",
				   text, TLS_BUILD_OPENSSL_TEXT);
	else
		tls_report_error(report,
				 "the OpenSSL library is %s but the module was compiled with %s: "
				 "compile it again on this machine, or set tls_force_run to start "
				 "at your own risk",
				 text, TLS_BUILD_OPENSSL_TEXT);
}
