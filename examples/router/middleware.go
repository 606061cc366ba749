package main

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"maps"
	"net/http"
	"strings"
)

const requestIDHeader = "X-Request-Id"

// withHyphens writes a header's name as backends see it that cannot tell these characters from a
// hyphen.
var withHyphens = strings.NewReplacer("_", "-", ".", "-")

// requestID gives each request a new ID. The backend, the client and the access log get it. An ID
// that the client sends is not believed, however it spells the name.
func requestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := rand.Text()
		r = r.WithContext(r.Context()) // a copy; that of Clone does not get the trailers, which come later
		r.Header = r.Header.Clone()
		maps.DeleteFunc(r.Header, func(name string, _ []string) bool {
			return strings.EqualFold(withHyphens.Replace(name), requestIDHeader)
		})
		r.Header.Set(requestIDHeader, id)
		w.Header().Set(requestIDHeader, id)
		next.ServeHTTP(w, r)
	})
}

// requestAttrs returns what the access log has besides its own attributes.
func requestAttrs(r *http.Request) []slog.Attr {
	return []slog.Attr{slog.String("request_id", r.Header.Get(requestIDHeader))}
}

// basicAuth asks for a name, which has no colon, and a password. How long it takes to refuse wrong
// ones says nothing about the right ones. It is for a whole directory: a browser sends the password
// to all paths in the directory of the first one that asks for it (RFC 7617 section 2.2), so no
// backend may be there.
func basicAuth(name, password string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(name + ":" + password))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		if got := sha256.Sum256([]byte(name + ":" + password)); subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="operators", charset="UTF-8"`)
			http.Error(w, http.StatusText(http.StatusUnauthorized), http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// user returns the name of an operator, for the page's record of who has pressed which button.
func user(r *http.Request) string {
	name, _, _ := r.BasicAuth()
	return name
}
