package stickiness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/stickylb/stickylb/cookie"
)

const (
	defaultName = "AWSELB" // the name that classic cloud load balancers use
	twinSuffix  = "CORS"

	// maxName leaves room for a sealed value: browsers drop cookies of more than 4096 octets.
	maxName = 256
	// maxPath is the longest attribute value that browsers do not ignore (RFC 6265bis, section
	// 5.6).
	maxPath = 1024
	// maxDomain is the longest host name (RFC 1035, section 2.3.4).
	maxDomain = 253
)

// nameFor returns the name of the balancer's cookie. Without a name, it returns the default name,
// which depends on the scope: so two policies of one host do not overwrite each other's cookie.
func nameFor(name, scope string) string {
	if name != "" {
		return name
	}
	if scope == "" {
		return defaultName
	}
	h := sha256.Sum256([]byte(scope))
	return defaultName + "-" + hex.EncodeToString(h[:4])
}

// check returns an error for options with which no valid cookie can be written.
func (o *LBCookieOptions) check(name, path string) error {
	switch {
	case o.Period < 0:
		return fmt.Errorf("negative Period %v", o.Period)
	case o.Period == 0 && (o.Renew || o.Enforce):
		return errors.New("the options Renew and Enforce need a Period")
	case o.CORS > CORSNever:
		return fmt.Errorf("unknown CORSMode %d", o.CORS)
	case o.SameSite < 0 || o.SameSite > http.SameSiteNoneMode:
		return fmt.Errorf("unknown SameSite %d", o.SameSite)
	}
	if err := checkName(name); err != nil {
		return err
	}
	if err := o.PathSpelling.check(); err != nil {
		return err
	}
	for _, p := range o.PathSpelling.spell(path) {
		if err := checkPath(p); err != nil {
			return err
		}
	}
	return checkDomain(o.Domain)
}

// check returns an error for an invalid name, and for a name with a prefix that requires
// attributes, because the application chooses the attributes.
func (o *AppCookieOptions) check(own string) error {
	name := newAppName(o.Cookie, o.ExactName)
	if err := checkAppName(name.text); err != nil {
		return err
	}
	if err := checkName(own); err != nil {
		return err
	}
	if err := (cookie.SetCookie{Name: own}).Check(); err != nil {
		return fmt.Errorf("the Name %q requires attributes, which the application chooses: %w", own, err)
	}
	if name.matches(own) {
		return errors.New("the Name is also that of the application's cookie")
	}
	return o.PathSpelling.check()
}

// checkName returns an error if name is not a cookie-name (RFC 6265, section 4.1.1).
func checkName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("cookie name of %d octets, want at most %d", len(name), maxName)
	}
	if name == "" || strings.ContainsFunc(name, notToken) {
		return fmt.Errorf("invalid cookie name %q", name)
	}
	return nil
}

// notToken reports whether c is not allowed in a token (RFC 9110, section 5.6.2).
func notToken(c rune) bool {
	return c <= ' ' || c >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, c)
}

// checkPath returns an error for a path that browsers ignore, and for one that matches no request
// because browsers escape its characters in requests.
func checkPath(path string) error {
	bad := func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(";?#", c) }
	if len(path) > maxPath || !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, bad) {
		return fmt.Errorf("invalid Path %q", path)
	}
	return nil
}

// checkDomain returns an error if domain is not a host name. It ignores a leading dot, as browsers
// do.
func checkDomain(domain string) error {
	if domain == "" {
		return nil
	}
	host := strings.TrimPrefix(domain, ".")
	if len(host) > maxDomain {
		return fmt.Errorf("invalid Domain %q: too long", domain)
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, notLabel) {
			return fmt.Errorf("invalid Domain %q: want an ASCII host name without a port", domain)
		}
	}
	return nil
}

func notLabel(c rune) bool {
	switch {
	case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '_':
		return false
	}
	return true
}

func (s PathSpelling) check() error {
	if s > SpellVerbatim {
		return fmt.Errorf("unknown PathSpelling %d", s)
	}
	return nil
}

// checkAppName returns an error for a name that no browser stores. It accepts more than checkName,
// because browsers store many names that are not tokens.
func checkAppName(name string) error {
	bad := func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f || c == ';' || c == '=' }
	if name == "" || len(name) > cookie.MaxSize || name != strings.Trim(name, " \t") || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("invalid name %q of the application's cookie", name)
	}
	return nil
}
