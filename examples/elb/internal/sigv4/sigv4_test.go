package sigv4_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go/aws-http-auth/credentials"
	"github.com/aws/smithy-go/aws-http-auth/sigv4"
	v4 "github.com/aws/smithy-go/aws-http-auth/v4"
	"github.com/stretchr/testify/require"

	checker "github.com/stickylb/stickylb/examples/elb/internal/sigv4"
)

const (
	key, secret, service = "AKIDEXAMPLE", "secret", "elasticloadbalancing"
	body                 = "Action=DescribeLoadBalancers&Version=2012-06-01"
)

// signed returns a call that a client has signed.
func signed(t *testing.T, with string, kind v4.SignatureType, target string) *http.Request {
	t.Helper()
	r := httptest.NewRequest("POST", target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if kind == v4.SignatureTypeQueryString {
		query := r.URL.Query()
		query.Set("X-Amz-Expires", "1800")
		r.URL.RawQuery = query.Encode()
	}
	hash := sha256.Sum256([]byte(body))
	require.NoError(t, sigv4.New().SignRequest(&sigv4.SignRequestInput{
		Request: r, PayloadHash: hash[:], Service: service, Region: "eu-central-1", Time: time.Now(), SignatureType: kind,
		Credentials: credentials.Credentials{AccessKeyID: key, SecretAccessKey: with},
	}, func(o *v4.SignerOptions) { o.HeaderRules = rules{} }))
	return r
}

type rules struct{}

func (rules) IsSigned(name string) bool {
	return name == "host" || name == "content-type" || strings.HasPrefix(name, "x-amz-")
}

func TestVerifier_Check(t *testing.T) {
	header := func(t *testing.T) *http.Request { return signed(t, secret, v4.SignatureTypeHeader, "http://api.test/") }
	presigned := func(t *testing.T) *http.Request {
		return signed(t, secret, v4.SignatureTypeQueryString, "http://api.test/?Action=X&B=%2F%20a")
	}
	edit := func(old, text string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, text, 1))
		}
	}
	tests := map[string]struct {
		call func(t *testing.T) *http.Request
		edit func(r *http.Request)
		body string
		wait time.Duration
		want error
	}{
		"header":                 {call: header},
		"almost too old":         {call: header, wait: 15 * time.Minute},
		"too old":                {call: header, wait: 15*time.Minute + time.Second, want: checker.ErrExpired},
		"from the future":        {call: func(t *testing.T) *http.Request { return signedAt(t, time.Now().Add(15*time.Minute+time.Second)) }, want: checker.ErrExpired},
		"of a clock ahead":       {call: func(t *testing.T) *http.Request { return signedAt(t, time.Now().Add(14*time.Minute)) }},
		"presigned":              {call: presigned},
		"presigned, in its time": {call: presigned, wait: 29 * time.Minute},
		"presigned, too old":     {call: presigned, wait: 31 * time.Minute, want: checker.ErrExpired},
		"presigned, other query": {call: presigned, edit: func(r *http.Request) { r.URL.RawQuery += "&Action=Y" }, want: checker.ErrMismatch},
		"presigned, for longer":  {call: presigned, edit: func(r *http.Request) { r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "=1800", "=3600", 1) }, want: checker.ErrMismatch},
		"presigned, for ever":    {call: presigned, edit: func(r *http.Request) { r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "=1800", "=99999999999999", 1) }, want: checker.ErrIncomplete},
		"other body":             {call: header, body: body + "&PageSize=1", want: checker.ErrMismatch},
		"other query":            {call: header, edit: func(r *http.Request) { r.URL.RawQuery = "x=y" }, want: checker.ErrMismatch},
		"other method":           {call: header, edit: func(r *http.Request) { r.Method = "GET" }, want: checker.ErrMismatch},
		"other path":             {call: header, edit: func(r *http.Request) { r.URL.Path = "/x" }, want: checker.ErrMismatch},
		"other host":             {call: header, edit: func(r *http.Request) { r.Host = "other.test" }, want: checker.ErrMismatch},
		"other signed header":    {call: header, edit: func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, want: checker.ErrMismatch},
		"other header":           {call: header, edit: func(r *http.Request) { r.Header.Set("User-Agent", "x") }},
		"other date":             {call: header, edit: func(r *http.Request) { r.Header.Set("X-Amz-Date", "20000101T000001Z") }, want: checker.ErrMismatch},
		"body hash of another":   {call: header, edit: func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", strings.Repeat("0", 64)) }, want: checker.ErrMismatch},
		"unsigned body":          {call: header, edit: func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD") }, want: checker.ErrMismatch},
		"body hash": {call: header, edit: func(r *http.Request) {
			sum := sha256.Sum256([]byte(body))
			r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
		}},
		"other key":        {call: header, edit: edit(key, "OTHER"), want: checker.ErrUnknownKey},
		"other region":     {call: header, edit: edit("eu-central-1", "us-east-1"), want: checker.ErrMismatch},
		"other service":    {call: header, edit: edit(service, "ec2"), want: checker.ErrMismatch},
		"host not covered": {call: header, edit: edit("host;", ""), want: checker.ErrMismatch},
		"date not covered": {call: header, edit: edit(";x-amz-date", ""), want: checker.ErrMismatch},
		"short signature":  {call: header, edit: func(r *http.Request) { a := r.Header.Get("Authorization"); r.Header.Set("Authorization", a[:len(a)-1]) }, want: checker.ErrMismatch},
		"other secret": {call: func(t *testing.T) *http.Request {
			return signed(t, "guess", v4.SignatureTypeHeader, "http://api.test/")
		}, want: checker.ErrMismatch},
		"none":                     {call: header, edit: func(r *http.Request) { r.Header.Del("Authorization") }, want: checker.ErrMissing},
		"two":                      {call: header, edit: func(r *http.Request) { r.Header.Add("Authorization", r.Header.Get("Authorization")) }, want: checker.ErrIncomplete},
		"basic":                    {call: header, edit: func(r *http.Request) { r.SetBasicAuth(key, secret) }, want: checker.ErrIncomplete},
		"no date":                  {call: header, edit: func(r *http.Request) { r.Header.Del("X-Amz-Date") }, want: checker.ErrIncomplete},
		"credential of too little": {call: header, edit: edit("/aws4_request", ""), want: checker.ErrIncomplete},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := tt.call(t)
				if tt.edit != nil {
					tt.edit(r)
				}
				time.Sleep(tt.wait)
				v := &checker.Verifier{AccessKeyID: key, Secret: secret, Service: service}
				require.ErrorIs(t, v.Check(r, []byte(cmp.Or(tt.body, body))), tt.want)
			})
		})
	}
}

func signedAt(t *testing.T, at time.Time) *http.Request {
	t.Helper()
	r := httptest.NewRequest("POST", "http://api.test/", strings.NewReader(body))
	hash := sha256.Sum256([]byte(body))
	require.NoError(t, sigv4.New().SignRequest(&sigv4.SignRequestInput{
		Request: r, PayloadHash: hash[:], Service: service, Region: "eu-central-1", Time: at,
		Credentials: credentials.Credentials{AccessKeyID: key, SecretAccessKey: secret},
	}))
	return r
}

// A call that somebody has recorded cannot be sent again, even before it is too old. Two equal
// calls of one second have one signature, and both pass.
func TestVerifier_RefusesReplays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &checker.Verifier{AccessKeyID: key, Secret: secret, Service: service}
		r := signedAt(t, time.Now().Add(14*time.Minute+30*time.Second)) // of a clock that is ahead: it stays valid for long
		require.NoError(t, v.Check(r, []byte(body)))
		require.NoError(t, v.Check(r, []byte(body)))
		for range 28 {
			time.Sleep(time.Minute)
			require.ErrorIs(t, v.Check(r, []byte(body)), checker.ErrExpired)
			require.NoError(t, v.Check(signedAt(t, time.Now()), []byte(body)))
		}
	})
}

func TestVerifier_WithoutKey(t *testing.T) {
	v := &checker.Verifier{}
	r := httptest.NewRequest("POST", "/", nil)
	require.ErrorIs(t, v.Check(r, nil), checker.ErrMissing)
	r = signedAt(t, time.Unix(0, 0))
	require.NoError(t, v.Check(r, []byte("anything")))
}
