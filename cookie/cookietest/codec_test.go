package cookietest_test

import (
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/cookie/cookietest"
	"github.com/stretchr/testify/require"
)

var values = map[string]string{"app-1": "s1", "app-2": "server-2"}

func TestTestCodec_AcceptsOurs(t *testing.T) {
	sealed, err := cookie.NewSealed(cookie.SealedOptions{})
	require.NoError(t, err)
	scoped, err := cookie.NewSealed(cookie.SealedOptions{Scope: "shop", Keys: [][]byte{cookie.NewKey(), cookie.NewKey()}})
	require.NoError(t, err)
	var table cookie.InsecureTable
	require.NoError(t, table.Store(values))
	nginx, err := cookie.NewNginxHMAC(cookie.NginxHMACOptions{Hash: crypto.SHA1, Key: "secret"})
	require.NoError(t, err)
	require.NoError(t, nginx.Store(values))
	for name, c := range map[string]cookie.Codec{"sealed": sealed, "scoped": scoped, "table": &table, "nginx": nginx} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, cookietest.TestCodec(c, "app-1", "app-2"))
		})
	}
}

func TestTestCodec_AcceptsHAProxysDates(t *testing.T) {
	for _, c := range []*cookie.InsecureHAProxy{{}, {MaxIdle: time.Minute}, {MaxLife: time.Hour}, {MaxIdle: time.Minute, MaxLife: time.Hour}} {
		synctest.Test(t, func(t *testing.T) { // the clock stands still, so no value has to be replaced
			require.NoError(t, c.Store(values))
			require.NoError(t, cookietest.TestCodec(c, "app-1", "app-2"))
		})
	}
}

// A codec has one fault in each case.
type codec struct {
	encode func(t *cookie.Ticket) (string, error)
	decode func(value string) (cookie.Ticket, error)
}

func (c codec) Encode(t *cookie.Ticket) (string, error)    { return c.encode(t) }
func (c codec) Decode(value string) (cookie.Ticket, error) { return c.decode(value) }

func withEncode(f func(t *cookie.Ticket) (string, error)) codec { return codec{f, goodDecode} }
func withDecode(f func(v string) (cookie.Ticket, error)) codec  { return codec{goodEncode, f} }

// wrong changes the ticket that a good codec decodes.
func wrong(change func(t *cookie.Ticket)) codec {
	return withDecode(func(v string) (cookie.Ticket, error) {
		t, err := goodDecode(v)
		if err == nil {
			change(&t)
		}
		return t, err
	})
}

var errNoTarget = errors.New("no target")

func goodEncode(t *cookie.Ticket) (string, error) {
	if t.Target == "" {
		return "", errNoTarget
	}
	return "v1-" + t.Target, nil
}

func goodDecode(v string) (cookie.Ticket, error) {
	id, ok := strings.CutPrefix(v, "v1-")
	if !ok || id == "" {
		return cookie.Ticket{}, cookie.ErrMalformed
	}
	return cookie.Ticket{Target: id}, nil
}

func TestTestCodec_FindsFaults(t *testing.T) {
	require.NoError(t, cookietest.TestCodec(codec{goodEncode, goodDecode}, "app-1"), "without a fault")
	require.ErrorContains(t, cookietest.TestCodec(codec{goodEncode, goodDecode}), "no targets")

	var calls atomic.Int64
	tests := map[string]struct {
		codec codec
		want  string
	}{
		"refuses": {withEncode(func(t *cookie.Ticket) (string, error) {
			return "", errNoTarget
		}), "no target"},
		"value with a semicolon": {withEncode(func(t *cookie.Ticket) (string, error) {
			return "v1-;", nil
		}), "a cookie cannot have the value"},
		"value with a comma": {withEncode(func(t *cookie.Ticket) (string, error) {
			return "v1-a,b", nil
		}), "a cookie cannot have the value"},
		"empty value": {withEncode(func(t *cookie.Ticket) (string, error) {
			return "", nil
		}), "a cookie cannot have the value"},
		"large value": {withEncode(func(t *cookie.Ticket) (string, error) {
			return "v1-" + strings.Repeat("x", cookie.MaxSize), nil
		}), "a cookie cannot have the value"},
		"edits the ticket": {withEncode(func(t *cookie.Ticket) (string, error) {
			t.OldKey = true
			return goodEncode(t)
		}), "changes the ticket"},
		"edits the attributes": {withEncode(func(t *cookie.Ticket) (string, error) {
			if len(t.Carried) > 0 {
				t.Carried[0].Value = ""
			}
			return goodEncode(t)
		}), "changes the ticket"},
		"makes something of nothing": {withEncode(func(t *cookie.Ticket) (string, error) {
			return "v1-" + t.Target, nil
		}), "without a target"},
		"panics without a target": {withEncode(func(t *cookie.Ticket) (string, error) {
			return "v1-" + t.Target + t.Target[:1][:0], nil
		}), "Encode"},
		"cannot read its own": {withEncode(func(t *cookie.Ticket) (string, error) {
			v, err := goodEncode(t)
			return strings.Replace(v, "v1", "v2", 1), err
		}), "refuses"},
		"other target":     {wrong(func(t *cookie.Ticket) { t.Target += "x" }), "comes back as"},
		"other issue time": {wrong(func(t *cookie.Ticket) { t.Issued = time.Unix(1, 0) }), "issue time"},
		"other expiry":     {wrong(func(t *cookie.Ticket) { t.Expires = time.Unix(1, 0) }), "expiry"},
		"attributes":       {wrong(func(t *cookie.Ticket) { t.Carried = []cookie.Attribute{{Name: "Path"}} }), "attributes"},
		"fractions":        {wrong(func(t *cookie.Ticket) { t.Seen = time.Unix(1, 1) }), "not in whole seconds"},
		"always old":       {wrong(func(t *cookie.Ticket) { t.OldKey = true }), "OldKey"},
		"drifts": {wrong(func(t *cookie.Ticket) {
			t.Issued = time.Now().Truncate(time.Second).Add(time.Duration(calls.Add(1)%3) * time.Second)
		}), "encoded again"},
		"no target": {withDecode(func(v string) (cookie.Ticket, error) {
			return cookie.Ticket{Target: strings.TrimPrefix(v, "v1-")}, nil
		}), "without a target"},
		"error of its own": {withDecode(func(v string) (cookie.Ticket, error) {
			if t, err := goodDecode(v); err == nil {
				return t, nil
			}
			return cookie.Ticket{}, errors.New("bad")
		}), "none of package cookie"},
		"contains the value": {withDecode(func(v string) (cookie.Ticket, error) {
			if t, err := goodDecode(v); err == nil {
				return t, nil
			}
			return cookie.Ticket{}, fmt.Errorf("%w: %s", cookie.ErrMalformed, v)
		}), "contains the value"},
		"ticket with an error": {withDecode(func(v string) (cookie.Ticket, error) {
			t, err := goodDecode(v)
			t.OldKey = err != nil
			return t, err
		}), "ticket with an error"},
		"panics": {withDecode(func(v string) (cookie.Ticket, error) {
			_ = v[:1]
			return goodDecode(v)
		}), "panics"},
		"blanks":     {withDecode(func(v string) (cookie.Ticket, error) { return goodDecode(strings.TrimSpace(v)) }), "decodes to the same ticket"},
		"case":       {withDecode(func(v string) (cookie.Ticket, error) { return goodDecode(strings.ToLower(v)) }), "decodes to the same ticket"},
		"quotes":     {withDecode(func(v string) (cookie.Ticket, error) { return goodDecode(strings.Trim(v, `"`)) }), "decodes to the same ticket"},
		"rest":       {withDecode(func(v string) (cookie.Ticket, error) { v, _, _ = strings.Cut(v, "|"); return goodDecode(v) }), "decodes to the same ticket"},
		"base64":     {codec{encode64(base64.RawURLEncoding), decode64(base64.RawURLEncoding)}, "decodes to the same ticket"},
		"base64, CR": {codec{encode64(base64.RawURLEncoding), decode64(base64.RawURLEncoding.Strict())}, "decodes to the same ticket"},
		"nonce that is not checked": {codec{
			func(t *cookie.Ticket) (string, error) {
				v, err := goodEncode(t)
				return fmt.Sprintf("%04d", rand.IntN(1e4)) + v, err
			},
			func(v string) (cookie.Ticket, error) { return goodDecode(v[min(4, len(v)):]) },
		}, "decodes to the same ticket"},
		"state between calls": {withDecode(func(v string) (cookie.Ticket, error) {
			n := calls.Add(1)
			defer calls.Add(-1)
			for range 3 {
				runtime.Gosched()
			}
			if n > 1 {
				return cookie.Ticket{}, cookie.ErrForged
			}
			return goodDecode(v)
		}), "concurrently"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			calls.Store(0)
			err := cookietest.TestCodec(tt.codec, "app-1", "app-2")
			require.ErrorContains(t, err, tt.want)
			require.LessOrEqual(t, strings.Count(err.Error(), "\n"), 10, "one fault is not told a thousand times")
		})
	}
}

func encode64(e *base64.Encoding) func(t *cookie.Ticket) (string, error) {
	return func(t *cookie.Ticket) (string, error) {
		v, err := goodEncode(t)
		return e.EncodeToString([]byte(v)), err
	}
}

func decode64(e *base64.Encoding) func(v string) (cookie.Ticket, error) {
	return func(v string) (cookie.Ticket, error) {
		b, err := e.DecodeString(v)
		if err != nil {
			return cookie.Ticket{}, cookie.ErrMalformed
		}
		return goodDecode(string(b))
	}
}
