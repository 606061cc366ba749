package upstream_test

import (
	"errors"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// An answer is what a backend says before it closes, and what becomes of it.
type answer struct {
	method string // GET when empty
	text   string
	fails  bool   // RoundTrip does
	breaks bool   // the body does
	body   string // as far as it comes
	kept   bool   // the connection is used for the next request
	excess bool   // more is said than belongs to it: http.Transport may take that for the next answer
}

var answers = map[string]answer{
	"counted":              {text: ok, body: "ok", kept: true},
	"empty":                {text: empty, kept: true},
	"no reason":            {text: "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", body: "ok", kept: true},
	"blank reason":         {text: "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", body: "ok", kept: true},
	"bare line feeds":      {text: "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", body: "ok", kept: true},
	"chunked":              {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", body: "abcde", kept: true},
	"chunked nothing":      {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", kept: true},
	"Chunked":              {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", kept: true},
	"trailers":             {text: "HTTP/1.1 200 OK\r\nTrailer: A, B\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: a\r\nC: c\r\n\r\n", body: "ok", kept: true},
	"long trailers":        {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: " + long(5000) + "\r\n\r\n", body: "ok", breaks: true},
	"bad trailers":         {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA a\r\n\r\n", body: "ok", breaks: true},
	"forbidden trailer":    {text: "HTTP/1.1 200 OK\r\nTrailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", fails: true},
	"trailers announced":   {text: "HTTP/1.1 200 OK\r\nTrailer: A\r\nContent-Length: 2\r\n\r\nok", body: "ok", kept: true},
	"to the end":           {text: "HTTP/1.1 200 OK\r\n\r\nall there is", body: "all there is"},
	"HTTP/1.0":             {text: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
	"HTTP/1.0 to the end":  {text: "HTTP/1.0 200 OK\r\n\r\nok", body: "ok"},
	"HTTP/1.0 kept":        {text: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", body: "ok", kept: true},
	"HTTP/1.0 chunked":     {text: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", body: "2\r\nok\r\n0\r\n\r\n"},
	"HTTP/1.9":             {text: "HTTP/1.9 200 OK\r\nContent-Length: 0\r\n\r\n", kept: true},
	"HTTP/2.0":             {text: "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", kept: true},
	"HTTP/3":               {text: "HTTP/3 200 OK\r\n\r\n", fails: true},
	"close":                {text: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
	"x, Close":             {text: "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
	"HEAD":                 {method: "HEAD", text: "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", kept: true},
	"HEAD chunked":         {method: "HEAD", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", kept: true},
	"HEAD to the end":      {method: "HEAD", text: "HTTP/1.1 200 OK\r\n\r\n", kept: true},
	"HEAD with a body":     {method: "HEAD", text: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", excess: true},
	"204":                  {text: "HTTP/1.1 204 No\r\n\r\n", kept: true},
	"204 with a length":    {text: "HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", kept: true},
	"204 with a body":      {text: "HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok", excess: true},
	"204 chunked":          {text: "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", kept: true},
	"304":                  {text: "HTTP/1.1 304 No\r\nContent-Length: 100\r\n\r\n", kept: true},
	"304 to the end":       {text: "HTTP/1.1 304 No\r\n\r\n", kept: true},
	"1xx":                  {text: "HTTP/1.1 103 Hint\r\nLink: a\r\n\r\nHTTP/1.1 102 Work\r\n\r\nHTTP/1.1 100 Go\r\n\r\n" + ok, body: "ok", kept: true},
	"199":                  {text: "HTTP/1.1 199 X\r\n\r\n" + ok, body: "ok", kept: true},
	"only a 1xx":           {text: "HTTP/1.1 103 Hint\r\n\r\n", fails: true},
	"099":                  {text: "HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
	"000":                  {text: "HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n"},
	"999":                  {text: "HTTP/1.1 999 X\r\nContent-Length: 2\r\n\r\nok", body: "ok", kept: true},
	"101 of nothing":       {text: "HTTP/1.1 101 X\r\n\r\n"},
	"101 without Upgrade":  {text: "HTTP/1.1 101 X\r\nConnection: upgrade\r\n\r\nmore", excess: true},
	"101 and a length":     {text: "HTTP/1.1 101 X\r\nContent-Length: 4\r\n\r\nmore", excess: true},
	"pragma":               {text: "HTTP/1.1 200 OK\r\nPragma: no-cache\r\nContent-Length: 0\r\n\r\n", kept: true},
	"many fields":          {text: "HTTP/1.1 200 OK\r\nset-cookie: a\r\nSet-Cookie: b\r\nX_y:  c \r\nEmpty:\r\nContent-Length: 0\r\n\r\n", kept: true},
	"folded":               {text: "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n", kept: true},
	"same length twice":    {text: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", body: "ok", kept: true},
	"two lengths":          {text: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", fails: true},
	"length of two":        {text: "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", fails: true},
	"no length":            {text: "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", fails: true},
	"negative length":      {text: "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", fails: true},
	"signed length":        {text: "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", fails: true},
	"huge length":          {text: "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", fails: true},
	"length and chunks":    {text: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", body: "ok", kept: true},
	"two codings":          {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", fails: true},
	"gzip, chunked":        {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", fails: true},
	"identity":             {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n", fails: true},
	"two answers":          {text: ok + ok, body: "ok", excess: true},
	"bytes after":          {text: empty + "x", excess: true},
	"bytes after chunks":   {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx", excess: true},
	"short":                {text: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", body: "part", breaks: true},
	"short of all":         {text: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", breaks: true},
	"short chunk":          {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\npart", body: "part", breaks: true},
	"short after a chunk":  {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n", body: "part", breaks: true},
	"short last chunk":     {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n", body: "part", breaks: true},
	"short trailer":        {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\nA: b\r\n", body: "part", breaks: true},
	"chunk of no size":     {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", breaks: true},
	"chunk of bare feed":   {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n", breaks: true},
	"chunk too long":       {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", body: "ok", breaks: true},
	"huge chunk":           {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n", breaks: true},
	"endless chunk line":   {text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;" + long(9000) + "\r\nok\r\n", breaks: true},
	"nothing":              {text: "", fails: true},
	"half a line":          {text: "HTTP/1.1 2", fails: true},
	"half a header":        {text: "HTTP/1.1 200 OK\r\nContent-Len", fails: true},
	"header without end":   {text: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", fails: true},
	"noise":                {text: "\x16\x03\x01\x00\x00", fails: true},
	"SSH":                  {text: "SSH-2.0-x\r\n", fails: true},
	"empty line first":     {text: "\r\n" + ok, fails: true},
	"status of two digits": {text: "HTTP/1.1 20 OK\r\n\r\n", fails: true},
	"status of four":       {text: "HTTP/1.1 2000 OK\r\n\r\n", fails: true},
	"status of letters":    {text: "HTTP/1.1 2xx OK\r\n\r\n", fails: true},
	"negative status":      {text: "HTTP/1.1 -20 OK\r\n\r\n", fails: true},
	"no colon":             {text: "HTTP/1.1 200 OK\r\nNo colon\r\n\r\n", fails: true},
	"space before a colon": {text: "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n", kept: true},
	"fold at the start":    {text: "HTTP/1.1 200 OK\r\n A: b\r\nContent-Length: 0\r\n\r\n", fails: true},
	"NUL in a value":       {text: "HTTP/1.1 200 OK\r\nA: b\x00c\r\nContent-Length: 0\r\n\r\n", fails: true},
	"header too long":      {text: "HTTP/1.1 200 OK\r\nA: " + long(2<<20) + "\r\n\r\n", fails: true},
	"too many fields":      {text: "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 200_000) + "\r\n", fails: true},
	"long body":            {text: "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + long(3000000), body: long(3000000), kept: true},
	"long to the end":      {text: "HTTP/1.1 200 OK\r\n\r\n" + long(3000000), body: long(3000000)},
}

// Every answer is the same result with both transports, and the connection is kept in the same cases.
func TestTransport_ReadsWhatHTTPTransportReads(t *testing.T) {
	quietly(t)
	for name, a := range answers {
		frozen(t, name, func(t *testing.T) {
			var results [2]result
			for i, tr := range transports {
				rt := tr.make(usual)
				t.Cleanup(rt.CloseIdleConnections)
				results[i] = a.play(t, rt)
			}
			require.Equal(t, results[0], results[1])
			require.Equal(t, a.fails, results[1].Failed)
			require.Equal(t, a.breaks, results[1].BodyFailed)
			require.Equal(t, a.body, results[1].Body)
		})
	}
}

// play asks for the answer, and then for another. After an answer that makes a connection useless the next request has to
// come over a new one.
func (a answer) play(t *testing.T, rt transport) result {
	again := make(chan int64, 2)
	b := newBackend(t, func(p *peer) {
		if p.n == 1 {
			if p.request() == nil || p.say(a.text) != nil {
				return
			}
			if !a.kept {
				if !strings.Contains(a.text, "\r\n\r\n") || a.breaks || a.fails || a.ends() {
					return // else what broke off is waited for
				}
			}
		}
		for p.request() != nil {
			again <- p.n
			p.say(ok)
		}
	})
	method := a.method
	if method == "" {
		method = http.MethodGet
	}
	r := resultOf(rt.RoundTrip(newRequest(t, method, b.url, nil)))
	if _, ours := rt.(*upstream.Transport); !ours && a.excess {
		return r
	}
	require.Equal(t, "ok", get(t, rt, b.url))
	require.Equal(t, a.kept, wait(t, again, "second request") == 1, "kept")
	return r
}

// ends reports whether the end of the connection is that of the body.
func (a answer) ends() bool {
	h, _, _ := strings.Cut(a.text, "\r\n\r\n")
	return a.method != "HEAD" && (strings.HasPrefix(h, "HTTP/1.0") || !strings.Contains(h, "\r\nContent-Length:") && !strings.Contains(h, "chunked"))
}

// quietly keeps http.Transport from writing to the log.
func quietly(t *testing.T) {
	log.SetOutput(io.Discard)
	t.Cleanup(func() { log.SetOutput(testWriter) })
}

// Each stage of a failure is told, and whether it took too long.
func TestTransport_Errors(t *testing.T) {
	stage := func(t *testing.T, rt transport, url string) *upstream.Error {
		_, err := rt.RoundTrip(newRequest(t, http.MethodGet, url, nil))
		e, ok := errors.AsType[*upstream.Error](err)
		require.True(t, ok, "%v", err)
		require.NotEmpty(t, e.Error())
		return e
	}
	rt := transports[1].make(limits{header: time.Minute, headerBytes: 1000})
	impatient := transports[1].make(limits{header: 10 * time.Millisecond})
	t.Cleanup(rt.CloseIdleConnections)

	refused := newBackend(t, nil).url[:len("http://127.0.0.1:")] + "1"
	require.Equal(t, upstream.StageDial, stage(t, rt, refused).Stage)

	silent := newBackend(t, func(p *peer) { p.gone() })
	e := stage(t, impatient, silent.url)
	require.Equal(t, upstream.StageHeaderTimeout, e.Stage)
	require.True(t, e.Timeout())

	drips := newBackend(t, func(p *peer) {
		p.say("HTTP/1.1 103 X\r\n\r\nHTTP/1.1 200 OK\r\nA:")
		p.gone()
	})
	require.Equal(t, upstream.StageHeaderTimeout, stage(t, impatient, drips.url).Stage)

	for _, text := range []string{"", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nA: " + long(2000) + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", strings.Repeat("HTTP/1.1 103 X\r\nA: b\r\n\r\n", 50) + ok} {
		e := stage(t, rt, newBackend(t, answering(text)).url)
		require.Equal(t, upstream.StageHeader, e.Stage, text)
		require.False(t, e.Timeout())
	}
}
