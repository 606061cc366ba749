package upstream

import (
	"net/http"
	"strings"
)

// loginSchemes are the beginnings of the names of the authentication schemes whose login holds for
// the whole connection: NTLM, and Negotiate (RFC 4559) with what else Microsoft's servers call it.
var loginSchemes = [...]string{"ntlm", "nego", "kerberos"}

// NamesLogin reports whether lines of Authorization, WWW-Authenticate or the like name an
// authentication scheme whose login a server may keep for the connection. The scheme may stand
// anywhere in a list, behind anything that is neither a letter nor a digit: some servers skip such
// bytes. When in doubt, in a quoted string for example, it reports true.
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

// LogsIn reports whether a request with that header may log its connection in.
func LogsIn(h http.Header) bool {
	return NamesLogin(h["Authorization"]) || NamesLogin(h["Proxy-Authorization"])
}

// offersLogin reports whether the target offers to log the connection in.
func offersLogin(res *http.Response) bool {
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return NamesLogin(res.Header["Www-Authenticate"]) || NamesLogin(res.Header["Proxy-Authenticate"])
	}
	return false
}
