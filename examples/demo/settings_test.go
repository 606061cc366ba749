package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/cookie"
)

// ask sends a request to the settings, JSON if the body begins with a brace and else a form, with
// more header lines.
func (p *process) settings(t *testing.T, method, body string, lines ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.admin+settingsPath, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if strings.HasPrefix(body, "{") {
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		if r.Header.Set(name, value); name == "Host" {
			r.Host = value
		}
	}
	r.Close = true                                 // the demo's end waits for connections that have had no request
	res, err := http.DefaultTransport.RoundTrip(r) // follows no redirect
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(text)
}

// change makes a change, and returns the settings then.
func (p *process) change(t *testing.T, body string, lines ...string) view {
	t.Helper()
	res, text := p.settings(t, http.MethodPost, body, lines...)
	require.Equal(t, http.StatusOK, res.StatusCode, text)
	var v view
	require.NoError(t, json.Unmarshal([]byte(text), &v))
	require.Equal(t, `"`+v.Version+`"`, res.Header.Get("ETag"))
	return v
}

func (p *process) view(t *testing.T) view {
	t.Helper()
	res, text := p.settings(t, http.MethodGet, "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	var v view
	require.NoError(t, json.Unmarshal([]byte(text), &v))
	return v
}

// encoded is JSON of a value.
func encoded(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

func TestSettings_Targets(t *testing.T) {
	a, b, c := named(t, "a").URL, named(t, "b").URL, named(t, "c").URL
	p := start(t, "-admin", "127.0.0.1:0", "-picker", "first", "-target", "a="+a, "-target", "b="+b)
	require.Equal(t, []string{"a=" + a, "b=" + b}, p.view(t).Targets)
	v := newVisitor(t)
	asks := func() string { _, name := v.get(t, p.http); return name }
	require.Equal(t, "a", asks())

	added := p.change(t, encoded(t, map[string]any{"targets": []string{"b=" + b + ";weight=2", "c=" + c, "a=" + a}}))
	require.Equal(t, []string{"b=" + b + ";weight=2", "c=" + c, "a=" + a}, added.Targets)
	require.Equal(t, "a", asks(), "the session stays")
	p.change(t, url.Values{"targets": {"b=" + b + ";weight=2\r\nc=" + c}, "grace": {"0s"}}.Encode())
	require.Eventually(t, func() bool { return asks() == "b" }, patience, glance, "the session is moved when its target leaves")
	require.Regexp(t, `msg="settings changed" remote=127.0.0.1:\d+ version=\w+-2 targets="\[b=`, p.stderr.String())
	require.Eventually(t, func() bool {
		_, status := v.get(t, p.admin)
		return !strings.Contains(status, `"id": "a"`)
	}, patience, glance, "and that is gone when nothing is in flight there")
}

// A session outlives every change of the mode, and its target is told who it is in the mode's own
// way.
func TestSettings_Sticky(t *testing.T) {
	p := start(t, "-admin", "127.0.0.1:0", "-picker", "roundrobin", "-sticky", "none")
	v := newVisitor(t)
	require.NotEqual(t, v.ask(t, p.http), v.ask(t, p.http))
	p.change(t, `{"sticky": "lb"}`)
	home := v.ask(t, p.http).Backend
	for _, mode := range []string{"lb=1h", "app=SHOP", "learn=CART", "learn=BAG", "lb", "learn=CART", "app=SHOP", "lb=2h"} {
		require.Equal(t, mode, p.change(t, encoded(t, map[string]string{"sticky": mode})).Sticky)
		for range 4 {
			require.Equal(t, home, v.ask(t, p.http).Backend, mode)
		}
	}
	require.Contains(t, p.stderr.String(), `sticky="app=SHOP"`)
	p.change(t, url.Values{"sticky": {"none"}}.Encode())
	require.NotEqual(t, v.ask(t, p.http), v.ask(t, p.http))
}

// A session that a header binds outlives a change of the header's name, too.
func TestSettings_StickyHeader(t *testing.T) {
	p := start(t, "-admin", "127.0.0.1:0", "-picker", "roundrobin", "-sticky", "header=Old")
	asks := func(header, session string) (home string, told http.Header) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.http+"/whoami", nil)
		require.NoError(t, err)
		r.Header.Set(header, session)
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer res.Body.Close()
		var a answer
		require.NoError(t, json.NewDecoder(res.Body).Decode(&a))
		return a.Backend, res.Header
	}
	home, told := asks("Old", "")
	p.change(t, `{"sticky": "header=New"}`)
	for range 4 {
		again, next := asks("Old", told.Get("Old"))
		require.Equal(t, home, again)
		again, _ = asks("New", next.Get("New"))
		require.Equal(t, home, again)
	}
}

// Clients without cookies are bound by headers: one that the application makes up, or one that the
// balancer tells them.
func TestSticky_Headers(t *testing.T) {
	for _, mode := range []string{"learn-header=Session", "header=Session"} {
		t.Run(mode, func(t *testing.T) {
			p := start(t, "-sticky", mode, "-picker", "roundrobin")
			asks := func(session string) (home, told string) {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.http+"/whoami", nil)
				require.NoError(t, err)
				if session != "" {
					r.Header.Set("Session", session)
				}
				res, err := http.DefaultClient.Do(r)
				require.NoError(t, err)
				defer res.Body.Close()
				var a answer
				require.NoError(t, json.NewDecoder(res.Body).Decode(&a))
				return a.Backend, res.Header.Get("Session")
			}
			home, session := asks("")
			require.NotEmpty(t, session)
			require.NotContains(t, session, home)
			for range 4 {
				again, _ := asks(session)
				require.Equal(t, home, again)
			}
		})
	}
}

// Three generations of keys, on two instances one after the other: no session moves, and no key is
// shown or logged.
func TestSettings_Keys(t *testing.T) {
	keys := make([]string, 4)
	for i := range keys {
		keys[i] = hex.EncodeToString(cookie.NewKey())
	}
	targets := []string{"-target", "a=" + named(t, "a").URL, "-target", "b=" + named(t, "b").URL,
		"-picker", "roundrobin", "-admin", "127.0.0.1:0", "-seal-key", keys[0]}
	instances := []*process{start(t, targets...), start(t, targets...)}
	homes := map[*visitor]string{}
	for range 8 {
		v := newVisitor(t)
		_, homes[v] = v.get(t, instances[0].http)
	}
	stay := func() {
		t.Helper()
		for v, home := range homes {
			for _, p := range instances {
				_, name := v.get(t, p.http)
				require.Equal(t, home, name)
			}
		}
	}
	ring := keys[:1] // cookies under an old key are replaced when they are ten minutes old, so all are kept
	for _, key := range keys[1:] {
		for _, next := range [][]string{append(slices.Clone(ring), key), append([]string{key}, ring...)} {
			for _, p := range instances {
				require.Equal(t, len(next), p.change(t, encoded(t, map[string]any{"keys": next})).Keys)
				stay()
			}
		}
		ring = append([]string{key}, ring...)
	}
	require.Equal(t, len(keys)+1, instances[0].change(t, "new_key=yes").Keys)
	for v, home := range homes {
		_, name := v.get(t, instances[0].http)
		require.Equal(t, home, name)
	}
	for _, p := range instances {
		_, shown := p.settings(t, http.MethodGet, "", "Accept: text/html")
		for _, key := range keys {
			raw, err := hex.DecodeString(key)
			require.NoError(t, err)
			for _, secret := range []string{key, string(raw), fmt.Sprint(raw)} {
				require.NotContains(t, shown, secret)
				require.NotContains(t, p.stderr.String(), secret)
			}
		}
	}
}

func TestSettings_Refused(t *testing.T) {
	secret := strings.Repeat("5e", keySize)
	p := start(t, "-admin", "127.0.0.1:0", "-tcp", "127.0.0.1:0=app-1")
	front := p.tcp[0]
	form := func(fields ...string) string {
		v := url.Values{}
		for i := 0; i < len(fields); i += 2 {
			v.Add(fields[i], fields[i+1])
		}
		return v.Encode()
	}
	tests := map[string]struct {
		body   string
		status int
		say    string
		lines  []string
	}{
		"no JSON":             {"{", 400, "not one JSON object", nil},
		"two objects":         {`{"sticky": "lb"} {}`, 400, "not one JSON object", nil},
		"rest":                {`{"sticky": "lb"} x`, 400, "not one JSON object", nil},
		"array":               {`["lb"]`, 400, "", []string{"Content-Type: application/json"}},
		"null":                {"null", 400, "not one JSON object", []string{"Content-Type: application/json"}},
		"no body":             {"", 400, "not one JSON object", []string{"Content-Type: application/json"}},
		"deep":                {strings.Repeat(`{"tcp":`, 9000), 400, "", nil},
		"unknown field":       {`{"sticky": "lb", "pickers": 1}`, 400, "a field that is none of version, targets, ", nil},
		"type":                {`{"keys": 5}`, 400, `the JSON field \"keys\" has the wrong type`, nil},
		"type of a part":      {`{"targets": [1]}`, 400, "wrong type", nil},
		"huge":                {`{"sticky": "` + strings.Repeat("x", maxChange) + `"}`, 413, "more than 65536 octets", nil},
		"huge form":           {"sticky=" + strings.Repeat("x", maxChange), 413, "more than 65536 octets", nil},
		"neither":             {"sticky: lb", 415, "neither application/json nor a form", []string{"Content-Type: text/plain"}},
		"no type":             {"sticky=lb", 415, "neither", []string{"Content-Type: "}},
		"form, escape":        {"sticky=%zz", 400, "the form cannot be read", nil},
		"form, unknown field": {"sticky=lb&color=red", 400, "a field that the page does not have", nil},
		"form, twice":         {"sticky=lb&sticky=none", 400, `the field \"sticky\" twice`, nil},
		"form, button":        {"new_key=no", 400, "a field that the page does not have", nil},
		"nothing":             {"{}", 422, "nothing to change", nil},
		"version alone":       {form("version", p.view(t).Version), 422, "nothing to change", nil},
		"stale":               {`{"sticky": "none", "version": "x-0"}`, 412, "meanwhile", nil},
		"stale form":          {"sticky=none&version=x-0", 412, "meanwhile", nil},
		"If-Match":            {`{"sticky": "none"}`, 412, "meanwhile", []string{`If-Match: "x-0"`}},
		"If-Match, weak":      {`{"sticky": "none"}`, 412, "meanwhile", []string{`If-Match: W/"` + p.view(t).Version + `"`}},
		"mode":                {`{"sticky": "ip"}`, 422, `sticky \"ip\": the modes are lb, `, nil},
		"no mode":             {"sticky=", 422, `sticky \"\": the modes are lb, `, nil},
		"cookie":              {`{"sticky": "app="}`, 422, `sticky \"app=\": `, nil},
		"good and bad":        {`{"sticky": "none", "keys": ["c0ffee"]}`, 422, "key 1: want 64 hexadecimal digits", nil},
		"no key":              {`{"keys": []}`, 422, "keys is empty", nil},
		"no key, form":        {"keys=", 422, "keys is empty", nil},
		"key twice":           {encoded(t, map[string]any{"keys": []string{secret, secret}}), 422, "cookie: ", nil},
		"keys and new_key":    {encoded(t, map[string]any{"keys": []string{secret}, "new_key": true}), 422, "exclude each other", nil},
		"many keys":           {encoded(t, map[string]any{"keys": slices.Repeat([]string{secret}, 9)}), 422, "9 keys are more than 8", nil},
		"target":              {`{"targets": ["app-1=localhost:3000"]}`, 422, `the URL has no scheme: write \"http://localhost:3000\"`, nil},
		"target twice":        {`{"targets": ["app-1=http://a", "app-1=http://b"]}`, 422, "another target has this ID", nil},
		"no target":           {`{"targets": []}`, 422, "no target has the ID", nil},
		"target behind tcp":   {`{"targets": ["app-2=http://127.0.0.1:9"]}`, 422, `no target has the ID \"app-1\"`, nil},
		"tcp, unknown ID":     {encoded(t, map[string]any{"tcp": map[string]any{front: []string{"app-9"}}}), 422, `no target has the ID \"app-9\"`, nil},
		"tcp, no ID":          {form("tcp "+front, ""), 422, "there is no ID", nil},
		"tcp, other address":  {`{"tcp": {"127.0.0.1:1": ["app-1"]}}`, 422, "no -tcp listener has the address", nil},
		"tcp target":          {`{"targets": ["app-1=http://127.0.0.1:9", "x=tcp://127.0.0.1:9"]}`, 422, "speaks no HTTP", nil},
		"no HTTP target": {encoded(t, map[string]any{"targets": []string{"x=tcp://127.0.0.1:9"},
			"tcp": map[string]any{front: []string{"x"}}}), 422, "no target speaks HTTP", nil},
		"grace":       {`{"targets": ["app-1=http://127.0.0.1:9"], "grace": "soon"}`, 422, "no duration such as 30s", nil},
		"grace, neg":  {`{"targets": ["app-1=http://127.0.0.1:9"], "grace": "-1s"}`, 422, "no duration such as 30s", nil},
		"grace alone": {`{"grace": "1s", "sticky": "none"}`, 422, "grace is about targets", nil},
	}
	before := p.view(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res, text := p.settings(t, http.MethodPost, tt.body, tt.lines...)
			require.Equal(t, tt.status, res.StatusCode, text)
			require.Contains(t, text, tt.say)
			require.Contains(t, text, `"error"`)
			require.Equal(t, before, p.view(t), "nothing has changed")
			require.Contains(t, p.stderr.String(), fmt.Sprint("status=", tt.status))

			res, text = p.settings(t, http.MethodPost, tt.body, append(tt.lines, "Accept: text/html")...)
			require.Equal(t, tt.status, res.StatusCode)
			require.Contains(t, text, "Nothing has changed: ")
			require.NotContains(t, text, secret)
		})
	}
	res, _ := p.settings(t, http.MethodDelete, "")
	require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
	require.NotContains(t, p.stderr.String(), secret)
	require.NotContains(t, p.stderr.String(), "settings changed")
}

// The settings have the protection of the status page.
func TestSettings_Guards(t *testing.T) {
	p := start(t, "-admin", "127.0.0.1:0", "-admin-host", "admin.example")
	tests := map[string]struct {
		line   string
		status int
	}{
		"a person's program":  {"X-Any: thing", http.StatusOK},
		"the page":            {"Sec-Fetch-Site: same-origin", http.StatusOK},
		"by name":             {"Host: admin.example", http.StatusOK},
		"a page of elsewhere": {"Sec-Fetch-Site: cross-site", http.StatusForbidden},
		"an older browser":    {"Origin: http://elsewhere.example", http.StatusForbidden},
		"a name of elsewhere": {"Host: elsewhere.example", http.StatusMisdirectedRequest},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := p.view(t)
			res, _ := p.settings(t, http.MethodPost, "new_key=yes", tt.line)
			require.Equal(t, tt.status, res.StatusCode)
			require.Equal(t, tt.status == http.StatusOK, p.view(t).Version != before.Version)
		})
	}
	res, _ := p.settings(t, http.MethodGet, "", "Host: elsewhere.example")
	require.Equal(t, http.StatusMisdirectedRequest, res.StatusCode)
	res, err := http.Get(p.http + settingsPath)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusNotFound, res.StatusCode, "the balancer's listener has no settings")
}

// Of changes that are meant for one version one is made; of others each.
func TestSettings_Concurrent(t *testing.T) {
	p := start(t, "-admin", "127.0.0.1:0")
	const many = 16
	race := func(lines ...string) (made int) {
		var mu sync.Mutex
		var racing sync.WaitGroup
		for i := range many {
			racing.Go(func() {
				res, _ := p.settings(t, http.MethodPost, fmt.Sprintf(`{"sticky": "lb=%dh"}`, i+1), lines...)
				mu.Lock()
				defer mu.Unlock()
				if res.StatusCode == http.StatusOK {
					made++
				}
			})
		}
		racing.Wait()
		return made
	}
	require.Equal(t, 1, race(`If-Match: "`+p.view(t).Version+`"`))
	require.True(t, strings.HasSuffix(p.view(t).Version, "-1"))
	require.Equal(t, many, race())
	require.True(t, strings.HasSuffix(p.view(t).Version, fmt.Sprint("-", many+1)))
	require.Equal(t, many, race("If-Match: *"))
	last := p.view(t)
	require.Contains(t, p.stderr.String(), fmt.Sprintf("version=%s sticky=%q\n", last.Version, last.Sticky), "the last one is in force")
}

// A form of the page leads back to it.
func TestSettings_Page(t *testing.T) {
	p := start(t, "-admin", "127.0.0.1:0")
	res, text := p.settings(t, http.MethodGet, "", "Accept: text/html")
	require.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"))
	require.Contains(t, text, strings.Join(p.view(t).Targets, "\n"))
	require.NotRegexp(t, `(src|href)="(https?:)?//|<script`, text, "nothing from elsewhere, and no script")
	res, _ = p.settings(t, http.MethodPost, "sticky=none&version="+p.view(t).Version, "Accept: text/html")
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	require.Equal(t, settingsPath, res.Header.Get("Location"))
	require.Equal(t, "none", p.view(t).Sticky)

	res, text = p.settings(t, http.MethodPost, url.Values{"targets": {"a=<b>"}}.Encode(), "Accept: text/html")
	require.Equal(t, http.StatusUnprocessableEntity, res.StatusCode)
	require.Contains(t, text, ">a=&lt;b&gt;</textarea>", "what was asked for can be corrected")
}

func TestSettings_TCP(t *testing.T) {
	a, b := echoing(t, "a"), echoing(t, "b")
	p := startUntil(t, "admin accepts on ", "-check-interval", "20ms", "-admin", "127.0.0.1:0",
		"-target", "a="+a, "-tcp", "127.0.0.1:0=a")
	front := p.tcp[0]
	require.Equal(t, "a:hello", talk(t, front, ":hello"))
	v := p.change(t, url.Values{"targets": {"a=" + a + " b=" + b}, "tcp " + front: {"a, b"}}.Encode())
	require.Equal(t, map[string][]string{front: {"a", "b"}}, v.TCP)
	v = p.change(t, encoded(t, map[string]any{"targets": []string{"b=" + b}, "tcp": map[string]any{front: []string{"b"}}, "grace": "0s"}))
	require.Equal(t, map[string][]string{front: {"b"}}, v.TCP)
	require.Eventually(t, func() bool { return talk(t, front, ":hello") == "b:hello" }, patience, glance)
}

// Who presses a button of the pages is logged.
func TestButtonsAreLogged(t *testing.T) {
	p := start(t, "-admin", "127.0.0.1:0")
	res, err := http.PostForm(p.admin, url.Values{"pool": {"http"}, "target": {"app-1"}, "action": {"drain"}})
	require.NoError(t, err)
	res.Body.Close()
	require.Regexp(t, `msg="health: button pressed" pool=http target=app-1 action=drain by=127.0.0.1:\d+`, p.stderr.String())
	p.press(t, "backends/app-1/ready")
	require.Regexp(t, `msg="button pressed" remote=127.0.0.1:\d+ path=/demo/backends/app-1/ready .* status=204`, p.stderr.String())
}
