// Package sigv4 checks the signatures of AWS's Signature Version 4, in the Authorization header or
// in the query of a presigned URL. It signs a copy of the request with the same key and compares.
package sigv4

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/smithy-go/aws-http-auth/credentials"
	"github.com/aws/smithy-go/aws-http-auth/sigv4"
	v4 "github.com/aws/smithy-go/aws-http-auth/v4"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeLayout = "20060102T150405Z"

	// Skew is how far the date of a signature may be from this machine's clock.
	Skew = 15 * time.Minute

	// again is how long after its first use a signature may come again: clients that sign with
	// whole seconds sign two equal calls of one second equally.
	again = 5 * time.Second

	maxExpires = 7 * 24 * 3600 // seconds that a presigned URL may last
)

// The reasons why a call is refused. Match with errors.Is.
var (
	ErrMissing    = errors.New("the call has no signature")
	ErrIncomplete = errors.New("the signature is malformed")
	ErrUnknownKey = errors.New("the access key is not known")
	ErrMismatch   = errors.New("the signature does not match the call")
	ErrExpired    = errors.New("the signature is too old, from the future, or used before")
)

// A Verifier checks signatures. Its methods are safe for concurrent use.
type Verifier struct {
	// AccessKeyID and Secret are the key that calls have to be signed with. If AccessKeyID is
	// empty, any signature passes, but there has to be one.
	AccessKeyID, Secret string

	// Service is the service that the signature has to name. Any region passes.
	Service string

	mu     sync.Mutex
	seen   map[string]time.Time // first use, by signature
	former map[string]time.Time // seen before turned
	turned time.Time
}

// A claim is what the client says about its signature.
type claim struct {
	key, day, region, service string
	signed                    []string // names of headers
	signature                 string
	date                      time.Time
	expires                   time.Duration // of a presigned URL
	kind                      v4.SignatureType
}

// Check returns nil if the call is signed well. body is the body of r, which was read before.
func (v *Verifier) Check(r *http.Request, body []byte) error {
	c, err := read(r)
	if err != nil || v.AccessKeyID == "" {
		return err
	}
	switch {
	case !hmac.Equal([]byte(c.key), []byte(v.AccessKeyID)):
		return ErrUnknownKey
	case c.service != v.Service, c.day != c.date.Format("20060102"):
		return fmt.Errorf("%w: it has the wrong service or day", ErrMismatch)
	case !slices.Contains(c.signed, "host"):
		return fmt.Errorf("%w: it does not cover the host", ErrMismatch)
	case c.kind == v4.SignatureTypeHeader && !slices.Contains(c.signed, "x-amz-date"):
		return fmt.Errorf("%w: it does not cover the date", ErrMismatch)
	}
	now := time.Now()
	if c.date.After(now.Add(Skew)) || c.date.Add(cmp.Or(c.expires, Skew)).Before(now) {
		return ErrExpired
	}
	want, err := v.sign(r, body, c)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrMismatch, err)
	}
	if !hmac.Equal([]byte(want), []byte(c.signature)) {
		return ErrMismatch
	}
	return v.first(c, now)
}

// first returns an error if the signature was used a while ago. A presigned URL is meant to be used
// again.
func (v *Verifier) first(c claim, now time.Time) error {
	if c.kind == v4.SignatureTypeQueryString {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if now.Sub(v.turned) > 2*Skew {
		v.seen, v.former, v.turned = make(map[string]time.Time), v.seen, now
	}
	used, ok := v.seen[c.signature]
	if !ok {
		used, ok = v.former[c.signature]
	}
	if ok && now.Sub(used) > again {
		return ErrExpired
	}
	if !ok {
		v.seen[c.signature] = now
	}
	return nil
}

// sign returns the signature that the call should have.
func (v *Verifier) sign(r *http.Request, body []byte, c claim) (string, error) {
	hash := sha256.Sum256(body)
	if said := r.Header.Get("X-Amz-Content-Sha256"); said != "" && said != hex.EncodeToString(hash[:]) {
		return "", errors.New("the body is another one")
	}
	copied := r.Clone(r.Context())
	for _, name := range c.signed {
		if name == "content-length" { // net/http keeps it elsewhere
			copied.Header.Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
		}
	}
	query := copied.URL.Query()
	query.Del("X-Amz-Signature")
	copied.URL.RawQuery = query.Encode()
	err := sigv4.New().SignRequest(&sigv4.SignRequestInput{
		Request: copied, PayloadHash: hash[:], Service: c.service, Region: c.region, Time: c.date, SignatureType: c.kind,
		Credentials: credentials.Credentials{AccessKeyID: v.AccessKeyID, SecretAccessKey: v.Secret},
	}, func(o *v4.SignerOptions) { o.HeaderRules = covered(c.signed) })
	if err != nil {
		return "", err
	}
	if c.kind == v4.SignatureTypeQueryString {
		return copied.URL.Query().Get("X-Amz-Signature"), nil
	}
	_, signature, _ := strings.Cut(copied.Header.Get("Authorization"), "Signature=")
	return signature, nil
}

// covered are the headers that a signature covers.
type covered []string

// IsSigned implements v4.SignedHeaderRules.
func (c covered) IsSigned(name string) bool { return slices.Contains(c, name) }

// read reads the claim of a call.
func read(r *http.Request) (c claim, err error) {
	var credential, signed, date string
	query := r.URL.Query()
	switch header := r.Header.Values("Authorization"); {
	case len(header) == 1:
		rest, ok := strings.CutPrefix(header[0], algorithm+" ")
		if !ok {
			return c, ErrIncomplete
		}
		fields := make(map[string]string)
		for part := range strings.SplitSeq(rest, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			fields[name] = value
		}
		credential, signed, c.signature = fields["Credential"], fields["SignedHeaders"], fields["Signature"]
		date = r.Header.Get("X-Amz-Date")
	case len(header) > 1 || query.Has("X-Amz-Signature") && query.Get("X-Amz-Algorithm") != algorithm:
		return c, ErrIncomplete
	case query.Has("X-Amz-Signature"):
		c.kind = v4.SignatureTypeQueryString
		credential, signed, c.signature = query.Get("X-Amz-Credential"), query.Get("X-Amz-SignedHeaders"), query.Get("X-Amz-Signature")
		date = query.Get("X-Amz-Date")
		seconds, err := strconv.Atoi(query.Get("X-Amz-Expires"))
		if err != nil || seconds < 1 || seconds > maxExpires {
			return c, ErrIncomplete
		}
		c.expires = time.Duration(seconds) * time.Second
	default:
		return c, ErrMissing
	}
	scope := strings.Split(credential, "/")
	if len(scope) != 5 || scope[4] != "aws4_request" || signed == "" || c.signature == "" {
		return c, ErrIncomplete
	}
	c.key, c.day, c.region, c.service = scope[0], scope[1], scope[2], scope[3]
	c.signed = strings.Split(signed, ";")
	if c.date, err = time.Parse(timeLayout, date); err != nil {
		return c, ErrIncomplete
	}
	return c, nil
}
