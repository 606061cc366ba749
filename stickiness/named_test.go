package stickiness_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
	"github.com/stretchr/testify/require"
)

func TestSources(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/a;v=p1/b;v=p2;w=%41?x=1&v=q%201&v=q2&%76v=q+3;&%76v=q%2B4", nil)
	r.Header.Add("X-Target", "h1")
	r.Header.Add("X-Target", "h2")
	r.Header.Add("Cookie", `v="c1"; v=c2; w="`)
	r.SetPathValue("tenant", "t1")
	tests := map[string]struct {
		source stickiness.Source
		want   string
	}{
		"header":                  {stickiness.FromHeader("x-target"), "h1"},
		"no header":               {stickiness.FromHeader("X-Other"), ""},
		"cookie":                  {stickiness.FromCookie("v"), "c1"},
		"cookie of a lone quote":  {stickiness.FromCookie("w"), `"`},
		"no cookie":               {stickiness.FromCookie("V"), ""},
		"query":                   {stickiness.FromQuery("v"), "q 1"},
		"query, escaped name":     {stickiness.FromQuery("vv"), "q+4"},
		"no query parameter":      {stickiness.FromQuery("y"), ""},
		"path parameter":          {stickiness.FromPathParam("v"), "p1"},
		"path parameter, escaped": {stickiness.FromPathParam("w"), "%41"},
		"no path parameter":       {stickiness.FromPathParam("a"), ""},
		"wildcard":                {stickiness.FromPathValue("tenant"), "t1"},
		"no wildcard":             {stickiness.FromPathValue("other"), ""},
	}
	for name, tt := range tests {
		require.Equal(t, tt.want, tt.source(r), name)
	}
}

// FromQuery reads what net/url reads, without parsing all of it.
func FuzzFromQuery(f *testing.F) {
	for _, s := range []string{"v=1", "a=1&v=2", "%76=1", "v=%zz&v=2", "v;=1&v=2", "v=a;b&v=2", "v", "v=+%20", "&&=", "%zz=1&v=2", "v=1" + strings.Repeat("&", 10_000)} {
		f.Add(s)
	}
	source := stickiness.FromQuery("v")
	f.Fuzz(func(t *testing.T, query string) {
		if strings.Count(query, "&") >= 10_000 {
			return // net/url does not read so many parameters
		}
		want, _ := url.ParseQuery(query)
		require.Equal(t, want.Get("v"), source(&http.Request{URL: &url.URL{RawQuery: query}}))
	})
}

func TestNamed_Lookup(t *testing.T) {
	sealed, err := cookie.NewSealed(cookie.SealedOptions{})
	require.NoError(t, err)
	value, err := sealed.Encode(&cookie.Ticket{Target: "app-1"})
	require.NoError(t, err)
	from := []stickiness.Source{stickiness.FromHeader("X-Target"), stickiness.FromQuery("target")}
	plainly, err := stickiness.NewNamed(stickiness.NamedOptions{From: from, InsecurePlain: true})
	require.NoError(t, err)
	secretly, err := stickiness.NewNamed(stickiness.NamedOptions{From: from, Codec: sealed})
	require.NoError(t, err)

	tests := map[string]struct {
		url, header      string
		plainly, sealed_ []string
	}{
		"nothing":              {"/", "", []string{}, []string{}},
		"the first source":     {"/?target=b", "a", []string{"a"}, []string{"[malformed]"}},
		"the second":           {"/?target=b", "", []string{"b"}, []string{"[malformed]"}},
		"sealed":               {"/?target=" + value, "", []string{value}, []string{"app-1"}},
		"as long as it may be": {"/", strings.Repeat("a", 4096), []string{strings.Repeat("a", 4096)}, []string{"[malformed]"}},
		"endless":              {"/", strings.Repeat("a", 4097), []string{"[malformed]"}, []string{"[malformed]"}},
	}
	for name, tt := range tests {
		r := httptest.NewRequest(http.MethodGet, tt.url, nil)
		r.Header.Set("X-Target", tt.header)
		require.Equal(t, tt.plainly, targets(plainly.Lookup(r, nil)), name)
		require.Equal(t, tt.sealed_, targets(secretly.Lookup(r, nil)), name)
	}
}

func TestNamed_Announce(t *testing.T) { synctest.Test(t, announce) }

func announce(t *testing.T) {
	older, newer := cookie.NewKey(), cookie.NewKey()
	newNamed := func(keys ...[]byte) *stickiness.Named {
		codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: keys})
		require.NoError(t, err)
		p, err := stickiness.NewNamed(stickiness.NamedOptions{From: []stickiness.Source{stickiness.FromHeader("X-Route")}, Codec: codec, Announce: "x-route"})
		require.NoError(t, err)
		return p
	}
	request := func(b *stickiness.Binding) *http.Request {
		r := get()
		r.Header.Set("X-Route", b.Header.Get("X-Route"))
		return r
	}
	p := newNamed(older)
	b := answer(p, get(), "app-1", http.Header{"Cache-Control": {"public"}})
	require.Equal(t, stickiness.Bound, b.Result)
	require.Equal(t, []string{"private"}, b.Header["Cache-Control"])
	first := b
	require.Equal(t, []string{"app-1"}, targets(p.Lookup(request(first), nil)))

	b = answer(p, request(first), "app-1", nil)
	require.Equal(t, stickiness.Kept, b.Result)
	require.Empty(t, b.Header)

	b = answer(p, request(first), "app-2", nil, detoured)
	require.Empty(t, b.Header)
	b = answer(p, request(first), "app-2", nil)
	require.Equal(t, stickiness.Bound, b.Result)
	require.Equal(t, []string{"app-2"}, targets(p.Lookup(request(b), nil)))

	require.Equal(t, stickiness.Kept, answer(newNamed(newer, older), request(first), "app-1", nil).Result)
	time.Sleep(10 * time.Minute)
	b = answer(newNamed(newer, older), request(first), "app-1", nil)
	require.Equal(t, stickiness.Renewed, b.Result)
	require.Equal(t, []string{"app-1"}, targets(newNamed(newer).Lookup(request(b), nil)))
}

func TestNamed_AnnouncesNothingThatNoHeaderCanHave(t *testing.T) {
	from := []stickiness.Source{stickiness.FromHeader("X-Route")}
	p, err := stickiness.NewNamed(stickiness.NamedOptions{From: from, InsecurePlain: true, Announce: "X-Route"})
	require.NoError(t, err)
	b := answer(p, get(), "app-1\r\nX-Injected: 1", nil)
	require.Equal(t, stickiness.Kept, b.Result)
	require.Empty(t, b.Header)

	p, err = stickiness.NewNamed(stickiness.NamedOptions{From: from, Codec: plain{}, Announce: "X-Route"})
	require.NoError(t, err)
	require.Empty(t, answer(p, get(), "unencodable", nil).Header)
}

func TestNamed_Contract(t *testing.T) {
	request := func(target string) *http.Request {
		r := get()
		r.Header.Set("X-Target", target)
		return r
	}
	from := []stickiness.Source{stickiness.FromHeader("X-Target")}
	p, err := stickiness.NewNamed(stickiness.NamedOptions{From: from, InsecurePlain: true})
	require.NoError(t, err)
	require.NoError(t, stickinesstest.TestPolicy(p, stickinesstest.Session{Request: request}))

	codec, err := cookie.NewSealed(cookie.SealedOptions{})
	require.NoError(t, err)
	p, err = stickiness.NewNamed(stickiness.NamedOptions{From: from, Codec: codec, Announce: "X-Route"})
	require.NoError(t, err)
	require.NoError(t, stickinesstest.TestPolicy(p, stickinesstest.Session{Carry: func(r *http.Request, response http.Header) {
		if value := response.Get("X-Route"); value != "" {
			r.Header.Set("X-Target", value)
		}
	}}))
}

func TestNewNamed_Refuses(t *testing.T) {
	from := []stickiness.Source{stickiness.FromHeader("X-Target")}
	for want, o := range map[string]stickiness.NamedOptions{
		"no source in From, or a nil one":                       {InsecurePlain: true},
		"want either a Codec or InsecurePlain":                  {From: from},
		"Announce is content-length, which frames the response": {From: from, InsecurePlain: true, Announce: "content-length"},
		"Announce is Connection, which frames the response":     {From: from, InsecurePlain: true, Announce: "Connection"},
		`invalid header name "X Target" in Announce`:            {From: from, InsecurePlain: true, Announce: "X Target"},
	} {
		_, err := stickiness.NewNamed(o)
		require.EqualError(t, err, "stickiness: Named: "+want)
	}
	_, err := stickiness.NewNamed(stickiness.NamedOptions{From: from, InsecurePlain: true, Codec: plain{}})
	require.Error(t, err)
	_, err = stickiness.NewNamed(stickiness.NamedOptions{From: []stickiness.Source{nil}, InsecurePlain: true})
	require.Error(t, err)
}
