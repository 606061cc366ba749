package upstream

import (
	"net/http"
	"strings"
)

// loginSchemes has prefixes of the authentication schemes whose login holds for the whole
// connection: NTLM, and Negotiate (RFC 4559) with the other names that Microsoft's servers use for
// it.
var loginSchemes = [...]string{"ntlm", "nego", "kerberos"}

// NamesLogin reports whether lines of Authorization, WWW-Authenticate or the like name a scheme
// whose login a server may keep for the connection. The name may stand anywhere in a list, after
// any byte that is neither a letter nor a digit, because some servers skip such bytes. In case of
// doubt, in a quoted string for example, it reports true.
func NamesLogin(lines []string) bool {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			part = strings.TrimLeftFunc(part, isNoAlphanumeric)
			for _, scheme := range loginSchemes {
				if len(part) >= len(scheme) && strings.EqualFold(part[:len(scheme)], scheme) {
					return true
				}
			}
		}
	}
	return false
}

func isNoAlphanumeric(c rune) bool {
	return (c < '0' || '9' < c) && (c < 'A' || 'Z' < c) && (c < 'a' || 'z' < c)
}

// LogsIn reports whether a request with this header may log its connection in.
func LogsIn(h http.Header) bool {
	return NamesLogin(h["Authorization"]) || NamesLogin(h["Proxy-Authorization"])
}

// offersLogin reports whether the target offers a login for the connection.
func offersLogin(res *http.Response) bool {
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return NamesLogin(res.Header["Www-Authenticate"]) || NamesLogin(res.Header["Proxy-Authenticate"])
	}
	return false
}
