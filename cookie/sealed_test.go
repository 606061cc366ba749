package cookie_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stretchr/testify/require"
)

var (
	key1 = bytes.Repeat([]byte{1}, 32)
	key2 = bytes.Repeat([]byte{2}, 32)
	key3 = bytes.Repeat([]byte{3}, 32)
)

func sealed(t testing.TB, scope string, keys ...[]byte) *cookie.Sealed {
	t.Helper()
	s, err := cookie.NewSealed(cookie.SealedOptions{Scope: scope, Keys: keys})
	require.NoError(t, err)
	return s
}

func encode(t testing.TB, c cookie.Codec, ticket cookie.Ticket) string {
	t.Helper()
	v, err := c.Encode(&ticket)
	require.NoError(t, err)
	return v
}

func TestSealed_C7_RoundTrip(t *testing.T) {
	issued := time.Unix(1767225600, 0).UTC()
	carried := attrs{{Name: "path", Value: "/my_app"}, {Name: "Secure", Bare: true}, {Name: "Comment", Value: ""}, {Name: "Port", Value: `"80,8080"`}}
	for name, ticket := range map[string]cookie.Ticket{
		"plain":       {Target: "app-1", Issued: issued},
		"no issue":    {Target: "app-1"},
		"expires":     {Target: "app-1", Issued: issued, Expires: issued.Add(time.Hour)},
		"carried":     {Target: "app-1", Issued: issued, Carried: carried},
		"session":     {Target: "app-1", Issued: issued, Session: 1},
		"seen":        {Target: "app-1", Issued: issued, Seen: issued.Add(time.Hour), Session: 1<<32 - 1},
		"all":         {Target: "app-1", Issued: issued, Expires: issued.AddDate(100, 0, 0), Carried: carried},
		"odd carried": {Target: "app-1", Carried: attrs{{Bare: true}, {Bare: true}}},
		"any octets":  {Target: "\x00\xff;\r\n", Issued: issued},
		"old times":   {Target: "x", Issued: time.Unix(-1, 0).UTC(), Expires: time.Unix(0, 0).UTC()},
		"long target": {Target: strings.Repeat("x", 3000), Issued: issued},
	} {
		for _, scope := range []string{"", "shop"} {
			t.Run(name+"/scope="+scope, func(t *testing.T) {
				s := sealed(t, scope, key1)
				value := encode(t, s, ticket)
				got, err := s.Decode(value)
				require.NoError(t, err)
				require.Equal(t, ticket, got)
				require.NotEqual(t, value, encode(t, s, ticket), "a nonce of its own")
				require.Equal(t, "a="+value, cookie.SetCookie{Name: "a", Value: value}.String())
			})
		}
	}
}

func TestSealed_C7_WholeSeconds(t *testing.T) {
	s := sealed(t, "", key1)
	at := time.Date(2026, 1, 1, 1, 2, 3, 999, time.FixedZone("east", 3600))
	got, err := s.Decode(encode(t, s, cookie.Ticket{Target: "a", Issued: at, Expires: at}))
	require.NoError(t, err)
	want := time.Date(2026, 1, 1, 0, 2, 3, 0, time.UTC)
	require.Equal(t, cookie.Ticket{Target: "a", Issued: want, Expires: want}, got)
}

func TestSealed_C7_Size(t *testing.T) {
	now := time.Now()
	ticket := cookie.Ticket{Target: "target-8", Issued: now}
	require.LessOrEqual(t, len(encode(t, sealed(t, "", key1), ticket)), 64)
	ticket.Session = 1<<32 - 1
	ticket.Expires, ticket.Seen = now.Add(time.Hour), now
	require.LessOrEqual(t, len(encode(t, sealed(t, "scope", key1), ticket)), 100)
}

func TestSealed_C7_HidesTheTarget(t *testing.T) {
	ticket := cookie.Ticket{Target: "10.0.0.1:8080", Issued: time.Now()}
	value := encode(t, sealed(t, "", key1), ticket)
	raw, err := base64.RawURLEncoding.DecodeString(value)
	require.NoError(t, err)
	require.NotContains(t, string(raw), "10.0.0")
}

// Encode makes the longest value that fits, and refuses a longer one.
func TestSealed_S10_TooLong(t *testing.T) {
	s := sealed(t, "", key1)
	var last string
	for n := 2900; ; n++ {
		ticket := cookie.Ticket{Target: "app-1", Issued: time.Unix(1767225600, 0), Carried: attrs{{Name: "Comment", Value: strings.Repeat("x", n)}}}
		value, err := s.Encode(&ticket)
		if err != nil {
			require.ErrorIs(t, err, cookie.ErrTooLong)
			require.Empty(t, value)
			break
		}
		last = value
		require.LessOrEqual(t, len(value), cookie.MaxSize)
		_, err = s.Decode(value)
		require.NoError(t, err)
	}
	require.Len(t, last, cookie.MaxSize)
}

func TestSealed_EncodeRefusesNoTarget(t *testing.T) {
	_, err := sealed(t, "", key1).Encode(&cookie.Ticket{Issued: time.Now()})
	require.Error(t, err)
}

func TestSealed_C7_KeyRing(t *testing.T) {
	ticket := cookie.Ticket{Target: "app-1", Issued: time.Unix(1, 0).UTC()}
	before, added, moved, after := sealed(t, "", key1), sealed(t, "", key1, key2), sealed(t, "", key2, key1), sealed(t, "", key2)

	// Each step of the rotation that the doc describes, with instances one step apart.
	for _, tt := range []struct {
		by, at *cookie.Sealed
		old    bool
	}{
		{before, added, false}, {added, before, false}, {added, moved, true}, {moved, added, true}, {moved, after, false}, {after, moved, false},
	} {
		got, err := tt.at.Decode(encode(t, tt.by, ticket))
		require.NoError(t, err)
		require.Equal(t, tt.old, got.OldKey)
		got.OldKey = false
		require.Equal(t, ticket, got)
	}
	_, err := after.Decode(encode(t, before, ticket))
	require.ErrorIs(t, err, cookie.ErrUnknownKey)

	got, err := sealed(t, "", key3, key2, key1).Decode(encode(t, before, ticket))
	require.NoError(t, err)
	require.True(t, got.OldKey, "the third key opens too")
}

func TestSealed_C7_NoKeysForgetSessions(t *testing.T) {
	one, other := sealed(t, ""), sealed(t, "")
	value := encode(t, one, cookie.Ticket{Target: "app-1"})
	_, err := one.Decode(value)
	require.NoError(t, err)
	_, err = other.Decode(value)
	require.ErrorIs(t, err, cookie.ErrUnknownKey)
}

func TestNewSealed_C7_Refuses(t *testing.T) {
	for name, keys := range map[string][][]byte{
		"nil":      {nil},
		"empty":    {{}},
		"16":       {key1[:16]},
		"31":       {key1[:31]},
		"33":       {append(bytes.Clone(key1), 0)},
		"second":   {key1, key2[:24]},
		"twice":    {key1, bytes.Clone(key1)},
		"far away": {key1, key2, key1},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := cookie.NewSealed(cookie.SealedOptions{Keys: keys})
			require.Error(t, err)
			require.Nil(t, s)
			require.NotContains(t, err.Error(), string(key1))
		})
	}
}

func TestNewSealed_DoesNotKeepTheKey(t *testing.T) {
	key := bytes.Clone(key1)
	s := sealed(t, "", key)
	clear(key)
	_, err := s.Decode(encode(t, sealed(t, "", key1), cookie.Ticket{Target: "a"}))
	require.NoError(t, err)
}

func TestNewKey(t *testing.T) {
	a, b := cookie.NewKey(), cookie.NewKey()
	require.Len(t, a, 32)
	require.NotEqual(t, a, b)
	require.NotEqual(t, make([]byte, 32), a)
}

func TestSealed_S15_Scope(t *testing.T) {
	for _, by := range []string{"", "shop", "mail"} {
		value := encode(t, sealed(t, by, key1), cookie.Ticket{Target: "app-1"})
		for _, at := range []string{"", "shop", "mail"} {
			got, err := sealed(t, at, key1).Decode(value)
			if by == at {
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, cookie.ErrScope, "%q at %q", by, at)
			require.Zero(t, got)
		}
	}
}

func TestSealed_S16_ReasonsStayApart(t *testing.T) {
	s := sealed(t, "", key1)
	value := encode(t, s, cookie.Ticket{Target: "app-1", Issued: time.Now()})
	raw, err := base64.RawURLEncoding.DecodeString(value)
	require.NoError(t, err)
	with := func(i int, b byte) string {
		r := bytes.Clone(raw)
		r[i] = b
		return base64.RawURLEncoding.EncodeToString(r)
	}
	text := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	tests := map[string]struct {
		value string
		want  error
	}{
		"empty":                  {"", cookie.ErrMalformed},
		"a word":                 {"app-1", cookie.ErrMalformed},
		"not base64":             {value[:8] + "!" + value[9:], cookie.ErrMalformed},
		"standard alphabet":      {"++//" + value[4:], cookie.ErrMalformed},
		"padded":                 {value + "=", cookie.ErrMalformed},
		"quoted":                 {`"` + value + `"`, cookie.ErrMalformed},
		"line feed at the end":   {value + "\n", cookie.ErrMalformed},
		"CR inside":              {value[:5] + "\r" + value[5:], cookie.ErrMalformed},
		"only line feeds":        {"\n\n\n\n", cookie.ErrMalformed},
		"too long":               {strings.Repeat("A", 4097), cookie.ErrMalformed},
		"version 0":              {with(0, 0), cookie.ErrMalformed},
		"version 2":              {with(0, 2), cookie.ErrMalformed},
		"too short to be one":    {text(raw[:32]), cookie.ErrMalformed},
		"nothing sealed":         {text(raw[:33]), cookie.ErrForged},
		"other key ID":           {with(1, raw[1]^1), cookie.ErrUnknownKey},
		"last octet of the ID":   {with(4, raw[4]^1), cookie.ErrUnknownKey},
		"nonce":                  {with(5, raw[5]^1), cookie.ErrForged},
		"ticket":                 {with(17, raw[17]^1), cookie.ErrForged},
		"tag":                    {with(len(raw)-1, raw[len(raw)-1]^1), cookie.ErrForged},
		"truncated":              {text(raw[:len(raw)-1]), cookie.ErrForged},
		"extended":               {text(append(bytes.Clone(raw), 0)), cookie.ErrForged},
		"sealed under another":   {encode(t, sealed(t, "", key2), cookie.Ticket{Target: "a"}), cookie.ErrUnknownKey},
		"another's under ours":   {relabel(t, encode(t, sealed(t, "", key2), cookie.Ticket{Target: "a"}), raw), cookie.ErrForged},
		"for another scope":      {encode(t, sealed(t, "x", key1), cookie.Ticket{Target: "a"}), cookie.ErrScope},
		"largest that is looked": {strings.Repeat("A", 4096), cookie.ErrMalformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := s.Decode(tt.value)
			require.ErrorIs(t, err, tt.want)
			require.Zero(t, got)
			if len(tt.value) > 8 {
				require.NotContains(t, err.Error(), tt.value)
			}
		})
	}
}

// relabel returns value with its version and key ID replaced by those of ours.
func relabel(t *testing.T, value string, ours []byte) string {
	raw, err := base64.RawURLEncoding.DecodeString(value)
	require.NoError(t, err)
	return base64.RawURLEncoding.EncodeToString(append(bytes.Clone(ours[:5]), raw[5:]...))
}

// No other spelling of a value can be opened: not with other unused bits in the last character,
// with another character anywhere, or with an additional character.
func TestSealed_C7_OneSpelling(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=\r\n %;\","
	s := sealed(t, "", key1)
	for n := range 4 { // all lengths of the last group
		value := encode(t, s, cookie.Ticket{Target: strings.Repeat("x", n+1), Issued: time.Now()})
		for i := range len(value) + 1 {
			for _, c := range []byte(alphabet) {
				if i < len(value) && c != value[i] {
					_, err := s.Decode(value[:i] + string(c) + value[i+1:])
					require.Error(t, err)
				}
				_, err := s.Decode(value[:i] + string(c) + value[i:])
				require.Error(t, err)
			}
		}
	}
}

func TestSealed_ConcurrentUse(t *testing.T) {
	s := sealed(t, "shop", key1, key2)
	old := encode(t, sealed(t, "shop", key2), cookie.Ticket{Target: "old"})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			want := cookie.Ticket{Target: fmt.Sprint("app-", g), Issued: time.Unix(int64(g), 0).UTC()}
			for range 200 {
				value, err := s.Encode(&want)
				if err == nil {
					var got cookie.Ticket
					got, err = s.Decode(value)
					if err == nil && (got.Target != want.Target || !got.Issued.Equal(want.Issued)) {
						t.Errorf("got %v, want %v", got, want)
					}
				}
				if _, oldErr := s.Decode(old); err != nil || oldErr != nil {
					t.Errorf("%v, %v", err, oldErr)
				}
			}
		})
	}
	wg.Wait()
}

// What is opened allocates the text of its ticket, and what cannot be opened nothing.
func TestSealed_OpeningAllocates(t *testing.T) {
	s := sealed(t, "shop", key1)
	value := encode(t, s, cookie.Ticket{Target: "target-8", Issued: time.Now(), Expires: time.Now()})
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		if _, err := s.Decode(value); err != nil {
			t.Error(err)
		}
	}), 1.0)
	garbage := strings.Repeat("A", cookie.MaxSize)
	require.Zero(t, testing.AllocsPerRun(100, func() { s.Decode(garbage) }))
}

func FuzzSealedDecode(f *testing.F) {
	s := sealed(f, "shop", key1, key2)
	for _, ticket := range []cookie.Ticket{
		{Target: "app-1"}, {Target: "app-1", Issued: time.Unix(1767225600, 0), Expires: time.Unix(1767229200, 0)},
		{Target: "app-1", Carried: attrs{{Name: "Path", Value: "/"}, {Name: "Secure", Bare: true}}},
	} {
		for _, c := range []*cookie.Sealed{s, sealed(f, "shop", key2), sealed(f, "", key1), sealed(f, "shop", key3)} {
			f.Add(encode(f, c, ticket))
		}
	}
	value := encode(f, s, cookie.Ticket{Target: "app-1"})
	for _, v := range []string{"", value + "\n", value + "=", value[:len(value)-1], strings.Repeat("A", 5000)} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		ticket, err := s.Decode(value)
		if err != nil {
			require.Zero(t, ticket)
			return
		}
		require.NotEmpty(t, ticket.Target)
		raw, err := base64.RawURLEncoding.Strict().DecodeString(value)
		require.NoError(t, err)
		require.Equal(t, value, base64.RawURLEncoding.EncodeToString(raw), "one spelling")
		again, err := s.Decode(encode(t, s, ticket))
		require.NoError(t, err)
		ticket.OldKey = false
		require.Equal(t, ticket, again)
	})
}

// Any ticket can be encoded and decoded, and a change of any octet of its value is noticed.
func FuzzSealedRoundTrip(f *testing.F) {
	f.Add("app-1", int64(1767225600), int64(0), "Path", "/", false, 0, byte(1))
	f.Add("\x00", int64(-1), int64(1<<40), "Secure", "", true, 40, byte(64))
	f.Fuzz(func(t *testing.T, target string, issued, expires int64, name, attr string, bare bool, at int, flip byte) {
		s := sealed(t, "shop", key1)
		want := cookie.Ticket{Target: target, Issued: time.Unix(issued, 0).UTC(), Carried: attrs{{Name: name, Value: attr, Bare: bare}}}
		if want.Expires = time.Unix(expires, 0).UTC(); want.Expires.IsZero() {
			want.Expires = time.Time{}
		}
		value, err := s.Encode(&want)
		if target == "" {
			require.Error(t, err)
			return
		}
		if err != nil {
			require.ErrorIs(t, err, cookie.ErrTooLong)
			return
		}
		if bare {
			want.Carried[0].Value = ""
		}
		got, err := s.Decode(value)
		require.NoError(t, err)
		require.Equal(t, want, got)
		if at >= 0 && at < len(value) && flip != 0 {
			changed := []byte(value)
			changed[at] ^= flip
			_, err := s.Decode(string(changed))
			require.Error(t, err)
		}
	})
}

// sealPlain seals any octets as Encode seals a ticket.
func sealPlain(t testing.TB, key, plain []byte) string {
	header, err := base64.RawURLEncoding.DecodeString(encode(t, sealed(t, "", key), cookie.Ticket{Target: "a"}))
	require.NoError(t, err)
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	aead, err := cipher.NewGCMWithRandomNonce(block)
	require.NoError(t, err)
	return base64.RawURLEncoding.EncodeToString(aead.Seal(header[:5:5], nil, plain, header[:5]))
}

// The format does not change: values of an earlier release must open.
func TestSealed_C7_Format(t *testing.T) {
	hash := sha256.Sum256([]byte("stickylb cookie scope\x00shop"))
	layout := "\x07" + "\x80\xe4\xad\x95\x0d" + "\x05app-1" + string(hash[:8]) + "\xa0\x9c\xae\x95\x0d" +
		"\x02" + "\x08path" + "\x01/" + "\x0dSecure"
	want := cookie.Ticket{
		Target: "app-1", Issued: time.Unix(1767225600, 0).UTC(), Expires: time.Unix(1767229200, 0).UTC(),
		Carried: attrs{{Name: "path", Value: "/"}, {Name: "Secure", Bare: true}},
	}
	for name, value := range map[string]string{
		"made now":    sealPlain(t, key1, []byte(layout)),
		"made before": "AZUUSrGNr1KTbTpf-ED3Jd2PBpWBa1KgnnJ5b2lLLw21l2Fd0vSoQjKYgf8EFPiahOCfQWgxlmSVXscqrwcX3FvjWu_SyUYoSw",
	} {
		got, err := sealed(t, "shop", key1).Decode(value)
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
}

func TestSealed_C5_AuthenticButNoTicket(t *testing.T) {
	for name, plain := range map[string]string{
		"nothing":              "",
		"flags only":           "\x00",
		"no target":            "\x00\x00\x00",
		"target cut":           "\x00\x00\x02a",
		"target of any length": "\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a",
		"time without end":     "\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a",
		"rest":                 "\x00\x00\x01aa",
		"unknown flag":         "\x40\x00\x01a",
		"name missing":         "\x08\x00\x01a",
		"scope cut":            "\x01\x00\x01a1234567",
		"expiry missing":       "\x02\x00\x01a",
		"attributes missing":   "\x04\x00\x01a",
		"too many attributes":  "\x04\x00\x01a\xff\xff\xff\xff\x0f\x01",
		"attribute cut":        "\x04\x00\x01a\x01\x04P",
		"session cut":          "\x20\x00\x01a\x01\x02\x03",
		"session zero":         "\x20\x00\x01a\x00\x00\x00\x00",
		"value missing":        "\x04\x00\x01a\x01\x02P",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := sealed(t, "", key1).Decode(sealPlain(t, key1, []byte(plain)))
			require.ErrorIs(t, err, cookie.ErrMalformed)
			require.Zero(t, got)
		})
	}
}

// Decode returns a ticket or an error for anything that a holder of the key seals.
func FuzzSealedTicket(f *testing.F) {
	s := sealed(f, "", key1)
	f.Add([]byte("\x00\x00\x01a"))
	f.Add([]byte("\x06\x80\xe4\xad\x95\x0d\x05app-1\xa0\x9c\xae\x95\x0d\x02\x08path\x01/\x0dSecure"))
	f.Add([]byte("\x01\x00\x01a12345678"))
	f.Add([]byte("\x20\x00\x01a\x01\x02\x03\x04"))
	f.Add([]byte("\x04\x00\x01a\xff\xff\xff\xff\x0f\x01"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		got, err := s.Decode(sealPlain(t, key1, plain))
		if err != nil {
			require.Zero(t, got)
			if !errors.Is(err, cookie.ErrScope) {
				require.ErrorIs(t, err, cookie.ErrMalformed)
			}
			return
		}
		again, err := s.Decode(encode(t, s, got))
		require.NoError(t, err)
		if len(got.Carried) == 0 {
			got.Carried = nil
		}
		require.Equal(t, got, again)
	})
}

func BenchmarkSealedEncode(b *testing.B) {
	s := sealed(b, "", key1)
	for name, ticket := range map[string]cookie.Ticket{
		"plain":   {Target: "target-8", Issued: time.Now()},
		"carried": {Target: "target-8", Issued: time.Now(), Expires: time.Now(), Carried: attrs{{Name: "Path", Value: "/my_app"}, {Name: "Secure", Bare: true}, {Name: "HttpOnly", Bare: true}}},
	} {
		b.Run("ticket="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Encode(&ticket); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSealedDecode(b *testing.B) {
	s := sealed(b, "", key1)
	value := encode(b, s, cookie.Ticket{Target: "target-8", Issued: time.Now()})
	forged := []byte(encode(b, s, cookie.Ticket{Target: strings.Repeat("x", 3000)}))
	forged[200] = 'A' + (forged[200]+1)%26
	for name, v := range map[string]string{
		"plain":   value,
		"scope":   encode(b, sealed(b, "shop", key1), cookie.Ticket{Target: "target-8", Issued: time.Now()}),
		"carried": encode(b, s, cookie.Ticket{Target: "target-8", Issued: time.Now(), Expires: time.Now(), Carried: attrs{{Name: "Path", Value: "/my_app"}, {Name: "Secure", Bare: true}, {Name: "HttpOnly", Bare: true}}}),
		"garbage": strings.Repeat("A", 4096),
		"hostile": string(forged),
	} {
		b.Run("value="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = s.Decode(v)
			}
		})
	}
}

func TestSealed_S24_StoreReplacesTheRing(t *testing.T) {
	s := sealed(t, "shop", key1)
	ticket := cookie.Ticket{Target: "app-1", Issued: time.Unix(1, 0).UTC()}
	first := encode(t, s, ticket)

	for name, keys := range map[string][][]byte{
		"no keys": {}, "nil": nil, "empty key": {key2, {}}, "short key": {key2, key1[:31]}, "twice": {key2, key1, key2},
	} {
		require.Error(t, s.Store(keys...), name)
		_, err := s.Decode(first)
		require.NoError(t, err, "%s: the ring stays", name)
		_, err = sealed(t, "shop", key1).Decode(encode(t, s, ticket))
		require.NoError(t, err, "%s: its order too", name)
	}

	ours := bytes.Clone(key2)
	require.NoError(t, s.Store(ours, key1))
	clear(ours)
	got, err := s.Decode(first)
	require.NoError(t, err)
	require.True(t, got.OldKey)
	second := encode(t, s, ticket)
	_, err = sealed(t, "shop", key2).Decode(second)
	require.NoError(t, err, "the new key seals, for the same scope")

	require.NoError(t, s.Store(key2))
	_, err = s.Decode(first)
	require.ErrorIs(t, err, cookie.ErrUnknownKey)
	got, err = s.Decode(second)
	require.NoError(t, err)
	require.Equal(t, ticket, got)
}

func TestSealed_ZeroValueHasNoKeys(t *testing.T) {
	var s cookie.Sealed
	ticket := cookie.Ticket{Target: "app-1"}
	value := encode(t, sealed(t, "", key1), ticket)
	_, err := s.Encode(&ticket)
	require.Error(t, err)
	_, err = s.Decode(value)
	require.ErrorIs(t, err, cookie.ErrUnknownKey)
	require.NoError(t, s.Store(key1))
	_, err = s.Decode(value)
	require.NoError(t, err)
}

// Two instances rotate their keys in the documented order while they exchange values.
func TestSealed_S24_StoreWhileInUse(t *testing.T) {
	instances := [2]*cookie.Sealed{sealed(t, "", key1), sealed(t, "", key1)}
	done := make(chan struct{})
	var users sync.WaitGroup
	for g := range 4 {
		users.Go(func() {
			want := cookie.Ticket{Target: fmt.Sprint("app-", g), Issued: time.Unix(1, 0).UTC()}
			for i := g; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				// The other instance may take some steps before it opens the value, so its key may
				// be gone.
				value, err := instances[i%2].Encode(&want)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := instances[(i+1)%2].Decode(value); err != nil && !errors.Is(err, cookie.ErrUnknownKey) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 30 {
		for _, step := range [][][]byte{{key1, key2}, {key2, key1}, {key2}, {key2, key1}, {key1, key2}, {key1}} {
			for _, s := range instances {
				require.NoError(t, s.Store(step...))
			}
		}
	}
	close(done)
	users.Wait()
}
