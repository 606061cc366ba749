package health

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stickylb/stickylb/balancer"
)

// A failure is the error of a check: its text is for people, and errors.Is finds the cause.
type failure struct {
	reason string
	err    error
}

func (f *failure) Error() string { return "health: " + f.reason }
func (f *failure) Unwrap() error { return f.err }

// maxQuoted limits what a reason quotes from a target, in octets.
const maxQuoted = 128

// quoted returns the beginning of what a target said, in quotes.
func quoted(words []byte) string {
	if len(words) <= maxQuoted {
		return strconv.Quote(string(words))
	}
	return strconv.Quote(string(words[:maxQuoted])) + "..."
}

// plain returns the text of an error for people. It has words for errors of the network and of TLS,
// and keeps the text of all others.
func plain(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset by the target"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return "no route to the target's host"
	case errors.Is(err, syscall.ENETUNREACH):
		return "the target's network cannot be reached"
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, os.ErrDeadlineExceeded):
		return "the connection timed out"
	case balancer.Shortage(err) != "":
		return "this machine is short of " + balancer.Shortage(err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed by the target"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && op.Net == "unix" {
		return plainSocket(op)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return plainDNS(dns)
	}
	if reason := plainTLS(err); reason != "" {
		return reason
	}
	return ownWords(err)
}

// maxReason limits the text that a reason takes from another package's error, in bytes.
const maxReason = 1000

// ownWords returns the text of an error, limited, on one line and harmless: a target may have
// written it.
func ownWords(err error) string {
	text := strings.TrimPrefix(err.Error(), "health: ")
	more := ""
	if len(text) > maxReason {
		text, more = text[:maxReason], "..."
	}
	return harmless(strings.ReplaceAll(text, "\n", " ")) + more // errors.Join writes lines
}

// harmless replaces invalid UTF-8, control characters and characters that change the direction of
// text by U+FFFD. So the text cannot disguise what stands around it in a log or on the page.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// plainSocket returns the text of an error in dialing a Unix socket, other than a refusal.
func plainSocket(err *net.OpError) string {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return "the target's socket does not exist"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "this process may not open the target's socket"
	case errors.Is(err, syscall.EAGAIN):
		return "the target's queue of connections is full"
	case errors.Is(err, syscall.EPROTOTYPE):
		return "the target's socket is not for streams"
	}
	return ownWords(err)
}

// plainDNS puts an error of a name's resolution into words for people.
func plainDNS(err *net.DNSError) string {
	switch {
	case err.IsNotFound:
		return fmt.Sprintf("the name %q does not resolve", err.Name)
	case err.IsTimeout:
		return fmt.Sprintf("the name server did not answer for %q", err.Name)
	}
	return fmt.Sprintf("the name %q could not be looked up: %s", err.Name, err.Err)
}

// plainTLS returns the text of an error of TLS. It returns "" for other errors.
func plainTLS(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the certificate is signed by an authority that is not trusted"
	}
	if name, ok := errors.AsType[x509.HostnameError](err); ok {
		return plainName(name)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return plainCertificate(invalid)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the target does not speak TLS on this port"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return "the target broke off TLS: " + strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	return ""
}

// plainName returns the text for a certificate with the wrong name. A certificate that has only a
// Common Name gets a text of its own: the Common Name does not count (RFC 9525, section 2).
func plainName(err x509.HostnameError) string {
	reason := fmt.Sprintf("the certificate is not valid for %q", err.Host)
	c := err.Certificate
	if c == nil || c.Subject.CommonName == "" || len(c.DNSNames)+len(c.IPAddresses)+len(c.URIs)+len(c.EmailAddresses) > 0 {
		return reason
	}
	return fmt.Sprintf("%s: it has a Common Name, %q, but no subject alternative name (SAN), and only that counts",
		reason, c.Subject.CommonName)
}

func plainCertificate(err x509.CertificateInvalidError) string {
	if err.Reason != x509.Expired || err.Cert == nil {
		return "the certificate is not valid: " + strings.TrimPrefix(err.Error(), "x509: ")
	}
	if time.Now().Before(err.Cert.NotBefore) {
		return "the certificate is not valid before " + err.Cert.NotBefore.UTC().Format(time.DateTime)
	}
	return "the certificate expired on " + err.Cert.NotAfter.UTC().Format(time.DateTime)
}
