package peertest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "write into testdata what the browser (stickiness/testdata) and the peers do")

// record is the directory of the record, which package stickiness's own tests read without a
// browser.
const record = "../../stickiness/testdata"

// A lineCase is one paragraph of the record: a title, a Set-Cookie line as [expand] reads it, and
// what the browser does with it, once or per scheme.
type lineCase struct {
	title, line string
	recorded    []string
	index       int               // among those of its file
	seen        map[string]string // by scheme
}

// testRecord (C1, C6) shows the browser each line of the record, and compares what the browser does
// with what the record says. With -rewrite it writes the record.
func testRecord(t *testing.T, b browser) {
	files, err := filepath.Glob(filepath.Join(record, "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			comment, cases := readRecord(t, file)
			if filepath.Base(file) != "spellings.txt" { // the scheme decides about Secure alone
				show(t, b, "http", cases)
			}
			show(t, b, "https", cases)
			if *rewrite {
				writeRecord(t, file, comment, cases)
				return
			}
			for _, c := range cases {
				if got := c.verdicts(); !slices.Equal(got, c.recorded) {
					t.Errorf("%s: %s\nrecorded: %q\nnow:      %q", c.title, c.line, c.recorded, got)
				}
			}
		})
	}
}

func readRecord(t *testing.T, file string) (comment string, cases []*lineCase) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for paragraph := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		if strings.HasPrefix(paragraph, "#") {
			comment += paragraph + "\n\n"
			continue
		}
		lines := strings.Split(paragraph, "\n")
		require.GreaterOrEqual(t, len(lines), 2, paragraph)
		cases = append(cases, &lineCase{title: lines[0], line: lines[1], recorded: lines[2:], index: len(cases), seen: make(map[string]string)})
	}
	return comment, cases
}

func writeRecord(t *testing.T, file, comment string, cases []*lineCase) {
	t.Helper()
	var paragraphs []string
	for _, c := range cases {
		paragraphs = append(paragraphs, strings.Join(append([]string{c.title, c.line}, c.verdicts()...), "\n"))
	}
	require.NoError(t, os.WriteFile(file, []byte(comment+strings.Join(paragraphs, "\n\n")+"\n"), 0o644))
}

// verdicts are what the record says of a line: one for both schemes if they agree.
func (c *lineCase) verdicts() []string {
	http, both := c.seen["http"]
	switch {
	case !both:
		return []string{"https: " + c.seen["https"]}
	case http == c.seen["https"]:
		return []string{"http, https: " + http}
	}
	return []string{"http: " + http, "https: " + c.seen["https"]}
}

// theDate is what dates in the record stand for: the sixth of a month at 08:09:07, in two or three
// months, which a browser does not cut down to its limit of 400 days.
func theDate() time.Time {
	t := time.Now().UTC().AddDate(0, 2, 0)
	if t.Day() > 6 {
		t = t.AddDate(0, 0, 1-t.Day()).AddDate(0, 1, 0)
	}
	return time.Date(t.Year(), t.Month(), 6, 8, 9, 7, 0, time.UTC)
}

var token = regexp.MustCompile(`\{[^{}]*\}`)

// expand returns a line of the record as it goes over the wire. {host} and {site} are names, {x00}
// is an octet, {x*1024} so many letters, and anything else in braces a layout of time.Format for
// the [theDate].
func expand(line, site string) string {
	return token.ReplaceAllStringFunc(line, func(s string) string {
		s = s[1 : len(s)-1]
		count, repeated := strings.CutPrefix(s, "x*")
		switch n, err := strconv.ParseUint(strings.TrimPrefix(s, "x"), 16, 8); {
		case s == "host":
			return "www." + site
		case s == "site":
			return site
		case repeated:
			n, err := strconv.Atoi(count)
			if err != nil {
				panic(err)
			}
			return strings.Repeat("x", n)
		case err == nil && len(s) == 3:
			return string([]byte{byte(n)})
		}
		return theDate().Format(s)
	})
}

// untouched is the lifetime of a cookie that is there before the line comes: the line with another
// Max-Age behind it.
const untouched = 77777 * time.Minute

// show lets the browser have each line from a host of its own, behind one that sets the same cookie
// as [untouched]: so a line that deletes differs from one that is refused.
func show(t *testing.T, b browser, scheme string, cases []*lineCase) {
	t.Helper()
	for batch := range slices.Chunk(cases, 100) { // a browser keeps 180 cookies of a site
		began := time.Now()
		both := fetchAll(t, b, scheme, batch, func(c *lineCase) [][]string { return [][]string{{c.before(), c.wire()}} })
		var gone []*lineCase
		for i, c := range batch {
			var kept []string
			for _, k := range both[i] {
				kept = append(kept, describe(k, c.site(), began))
			}
			switch seen := strings.Join(kept, " and "); {
			case seen == "":
				gone = append(gone, c)
			case strings.Contains(seen, fmt.Sprintf(" until %d min", untouched/time.Minute)):
				c.seen[scheme] = "refuses"
			default:
				c.seen[scheme] = "keeps " + seen
			}
		}
		for i, before := range fetchAll(t, b, scheme, gone, func(c *lineCase) [][]string { return [][]string{{c.before()}} }) {
			if len(before) > 0 {
				gone[i].seen[scheme] = "deletes"
			} else {
				gone[i].seen[scheme] = "refuses"
			}
		}
	}
}

// site is the domain that a case has for itself.
func (c *lineCase) site() string { return fmt.Sprintf("n%d.corpus.example", c.index) }

// wire is the line as it is sent.
func (c *lineCase) wire() string { return expand(c.line, c.site()) }

// before is a line that sets the same cookie.
func (c *lineCase) before() string {
	return fmt.Sprintf("%s; Max-Age=%d", c.wire(), untouched/time.Second)
}

// fetchAll has a page fetch something from a host of its site for each case, once for each of its
// responses in turn, which are Set-Cookie lines. It returns what the browser keeps of them.
func fetchAll(t *testing.T, b browser, scheme string, cases []*lineCase, responses func(*lineCase) [][]string) [][]*network.Cookie {
	t.Helper()
	var all [][][]string
	for _, c := range cases {
		all = append(all, responses(c))
	}
	port := serveLines(t, scheme, all)
	call(t, b, storage.ClearCookies, storage.ClearCookiesParams{})
	run(t, b, chromedp.Navigate(fmt.Sprintf("%s://corpus.example:%s/", scheme, port)))
	urls := make([][]string, len(cases))
	for i, c := range cases {
		for j := range all[i] {
			urls[i] = append(urls[i], fmt.Sprintf("%s://www.%s:%s/dir/page?%d.%d", scheme, c.site(), port, i, j))
		}
	}
	run(t, b, chromedp.Evaluate[bool](fmt.Sprintf(`(async cases => {
		const work = async () => {
			for (let urls; urls = cases.pop();) {
				for (const url of urls) {
					await fetch(url, {mode: "no-cors", credentials: "include"}).catch(() => {}); // a NUL breaks the response
				}
			}
		};
		await Promise.all(Array.from({length: 16}, work));
		return true;
	})(%s)`, toJSON(t, urls)), chromedp.EvalAwaitPromise))
	found := make([][]*network.Cookie, len(cases))
	for _, kept := range call(t, b, storage.GetCookies, storage.GetCookiesParams{}).Cookies {
		for i, c := range cases {
			if strings.HasSuffix("."+kept.Domain, "."+c.site()) {
				found[i] = append(found[i], kept)
			}
		}
	}
	return found
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

// call calls a command of the browser's protocol.
func call[P, R any](t *testing.T, b browser, command cdp.Command[P, R], params P) R {
	t.Helper()
	return run(t, b, func(ctx context.Context, target *chromedp.Target) (R, error) {
		return cdp.Call(ctx, target, command, params)
	})
}

// describe says what the browser has kept, in the words of the record.
func describe(c *network.Cookie, site string, began time.Time) string {
	until := "the session's end"
	if !c.Session {
		until = instant(time.UnixMilli(int64(math.Round(c.Expires*1000))), began)
	}
	s := fmt.Sprintf("%q=%q for %s%s until %s", c.Name, c.Value, c.Domain, c.Path, until)
	s = strings.ReplaceAll(s, site, "{site}")
	if c.Secure {
		s += ", Secure"
	}
	if c.HTTPOnly {
		s += ", HttpOnly"
	}
	if c.SameSite != "" {
		s += ", SameSite=" + string(c.SameSite)
	}
	if c.PartitionKey != nil {
		s += ", Partitioned"
	}
	return s
}

// instant says when a cookie ends: relative to the [theDate], or to the present.
func instant(at, now time.Time) string {
	if d := at.Sub(theDate()); d.Abs() < 20*24*time.Hour {
		return fmt.Sprintf("the date%+ds", int(d/time.Second))
	}
	d := at.Sub(now).Round(time.Minute)
	if d >= 400*24*time.Hour {
		return "400 days"
	}
	return fmt.Sprintf("%d min", int(d/time.Minute))
}

// serveLines answers requests whose query has two indexes with these Set-Cookie lines, byte for
// byte. It returns its port.
func serveLines(t *testing.T, scheme string, lines [][][]string) string {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	if scheme == "https" {
		l = tls.NewListener(l, &tls.Config{Certificates: serveTLS(t, nil).TLS.Certificates})
	}
	answer := func(c net.Conn) {
		defer c.Close()
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		var head strings.Builder
		head.WriteString("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n")
		var i, j int
		if n, _ := fmt.Sscanf(r.URL.RawQuery, "%d.%d", &i, &j); n == 2 {
			for _, line := range lines[i][j] {
				head.WriteString("Set-Cookie: " + line + "\r\n")
			}
		}
		io.WriteString(c, head.String()+"\r\nok")
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	return port
}

// testCorrectsClocks (S11) pins that the browser reads an Expires relative to the response's Date,
// as cookie.SetCookie.ExpiryDated does.
func testCorrectsClocks(t *testing.T, b browser) {
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	tests := []struct{ expires, date, want time.Duration }{ // want 0: not kept
		{10 * time.Minute, 0, 10 * time.Minute},
		{-50 * time.Minute, -time.Hour, 10 * time.Minute},
		{50 * time.Minute, time.Hour, 0},
	}
	var cases []*lineCase
	for i := range tests {
		cases = append(cases, &lineCase{index: i})
	}
	kept := fetchAll(t, b, "https", cases, func(c *lineCase) [][]string {
		return [][]string{{fmt.Sprintf("a=b; Expires=%s\r\nDate: %s", in(tests[c.index].expires), in(tests[c.index].date))}}
	})
	for i, tt := range tests {
		if tt.want == 0 {
			require.Empty(t, kept[i])
			continue
		}
		require.Len(t, kept[i], 1)
		require.WithinDuration(t, time.Now().Add(tt.want), time.Unix(int64(kept[i][0].Expires), 0), 2*time.Minute)
	}
}
