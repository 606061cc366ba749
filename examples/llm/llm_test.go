package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/npmtest"
	"github.com/stickylb/stickylb/wsproxy"
)

const patience = 2 * time.Minute // for what must happen

func TestMain(m *testing.M) { os.Exit(npmtest.Run(m)) }

// soon returns a context that ends with the test, or before if that takes long.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// wait receives from a channel.
func wait[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		require.FailNow(t, "not in time", what)
	}
	return v
}

// front serves a balancer as run does, in front of replicas with one handler. The handler gets the
// replica's name in the header Replica of the request.
func front(t *testing.T, h http.HandlerFunc) (url string, lb *wsproxy.Proxy) {
	t.Helper()
	var replicas []string
	for _, name := range []string{"a", "b", "c", "d"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Replica", name)
			w.Header().Set("Replica", name)
			h(w, r)
		}))
		t.Cleanup(s.Close)
		replicas = append(replicas, name+"="+s.URL)
	}
	lb, err := newProxy(strings.Join(replicas, " "), &balancer.Rendezvous{MaxLoad: 1.25})
	require.NoError(t, err)
	t.Cleanup(func() { lb.Close() })
	s := httptest.NewServer(http.MaxBytesHandler(lb, limit))
	t.Cleanup(s.Close)
	return s.URL, lb
}

// post sends a body and returns the response, whose body the test closes.
func post(t *testing.T, ctx context.Context, url string, body io.Reader, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", body)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// chatOf returns the JSON of a conversation of n messages.
func chatOf(first string, n int) string {
	c := chat{Model: "m", Stream: true, Messages: []message{{"system", "Be brief."}, {"user", first}}}
	for range n {
		c.Messages = append(c.Messages, message{"assistant", "Yes."}, message{"user", "Go on."})
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestBeginning(t *testing.T) {
	const key = `"Be brief.""Hello"`
	long := strings.Repeat("x", 2*most)
	tests := map[string]struct{ body, key string }{
		"first turn":           {chatOf("Hello", 0), key},
		"later turn":           {chatOf("Hello", 3), key},
		"other order":          {`{"messages":[{"content":"Be brief.","role":"system"},{"content":"Hello","role":"user"}],"model":{"a":[1]}}`, key},
		"spaces":               {" {\n\"stream\" : true, \"messages\" : [ {\"role\":\"system\", \"content\": \"Be brief.\"}, {\"role\":\"user\",\"content\":\"Hello\"}", key},
		"cut off after":        {chatOf("Hello", 3)[:len(chatOf("Hello", 1))], key},
		"parts":                {`{"messages":[{"role":"user","content":[{"type":"text","text":"Hi"}]}]}`, `[{"type":"text","text":"Hi"}]`},
		"long message":         {`{"messages":[{"role":"user","content":"` + long + `"}]}`, `"` + long[:most-1]},
		"cut off in a message": {`{"messages":[{"role":"system","content":"a"},{"role":"user","content":"` + long, (`"a",{"role":"user","content":"` + long)[:most+3]},
		"no content":           {`{"messages":[{"role":"user"}]}`, ""},
		"no messages":          {`{"model":"m","messages":[]}`, ""},
		"messages of a kind":   {`{"messages":{"role":"user"}}`, ""},
		"message of a kind":    {`{"messages":[1]}`, `1`},
		"role of a kind":       {`{"messages":[{"role":1,"content":"Hello"}]}`, `{"role":1,"content":"Hello"}`},
		"null":                 {`{"messages":null,"prompt":"Hello"}`, `"Hello"`},
		"prompt":               {`{"model":"m","prompt" : "Hello"}`, `"Hello"`},
		"long prompt":          {`{"prompt":"` + long + `","model":"m"}`, `"` + long[:most-1]},
		"cut off in a prompt":  {`{"prompt": "` + long, `"` + long[:most-1]},
		"prompts":              {`{"prompt":["Hello","Go on."],"seed":1}`, `"Hello""Go on."`},
		"tokens":               {`{"prompt":[` + strings.Repeat("1234,", most) + `1]}`, strings.Repeat("1234", most/4)},
		"input":                {`{"model":"m","input":"Hello"}`, `"Hello"`},
		"input of messages":    {`{"prompt":{"id":"a"},"input":[{"role":"developer","content":"Be brief."},{"role":"user","content":"Hello"}]}`, key},
		"later input":          {`{"input":[{"role":"developer","content":"Be brief."},{"role":"user","content":"Hello"},{"type":"reasoning"}]}`, key},
		"repeated members":     {`{"messages":[{"role":"system","role":"user","content":"a","content":"b"}],"messages":[]}`, `"b"`},
		"invalid UTF-8":        {"{\"prompt\":\"\xff\"}", "\"\xff\""},
		"many small messages":  {`{"messages":[` + strings.Repeat(`{"content":1},`, 20) + `{}]}`, strings.Repeat("1", 20)},
		"empty":                {"", ""},
		"not JSON":             {"Hello", ""},
		"a list":               {`[{"messages":[]}]`, ""},
		"malformed":            {`{"model":m,"messages":[{"role":"user","content":"Hello"}]}`, ""},
		"cut off before":       {`{"model":"` + long, ""},
		"deep":                 {`{"a":` + strings.Repeat("[", 20000), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.key, beginning([]byte(tt.body))) })
	}
}

// The key of a conversation is the same on all its turns, wherever reading ahead has cut off what
// follows the user's first message.
func FuzzBeginning(f *testing.F) {
	f.Add("Be brief.", "Hello", "Go on.", uint(3))
	f.Add("", "", "", uint(0))
	f.Add("\"}", "\\\n\x00\xff", "]", uint(1<<20))
	f.Add(strings.Repeat("a", 2000), strings.Repeat("b", 2000), "", uint(17))
	f.Fuzz(func(t *testing.T, system, user, more string, cut uint) {
		marshal := func(messages ...message) []byte {
			b, err := json.Marshal(chat{Model: more, Messages: messages})
			require.NoError(t, err)
			return b
		}
		first := marshal(message{"system", system}, message{"user", user})
		later := marshal(message{"system", system}, message{"user", user}, message{"assistant", more}, message{"user", more})
		key := beginning(first)
		require.NotEmpty(t, key)
		require.LessOrEqual(t, len(key), 2*most)
		require.Equal(t, key, beginning(later))
		least := len(first) - len(`],"stream":false}`)
		require.Equal(t, key, beginning(later[:least+int(cut%uint(len(later)-least+1))]))
		for _, name := range []string{"prompt", "input", "messages"} {
			b, err := json.Marshal(map[string]any{name: system + user, "seed": 1})
			require.NoError(t, err)
			require.NotEmpty(t, beginning(b))
			require.Equal(t, beginning(b), beginning(b[:max(len(b)-int(cut%10), min(len(b), len(name)+most+10))]))
		}
		require.LessOrEqual(t, len(beginning([]byte(more))), len(more)) // must not panic
	})
}

// Each kind of body gets the answer of a replica, or is refused before a replica is asked.
func TestProxy_Bodies(t *testing.T) {
	t.Parallel()
	url, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d %v", n, err)
	})
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, chatOf("Hello", 0))
	require.NoError(t, z.Close())
	huge := chatOf(strings.Repeat("x", 3*ahead), 0)
	tests := map[string]struct {
		body   io.Reader
		header []string
		length int
	}{
		"chat":            {body: strings.NewReader(chatOf("Hello", 0)), length: len(chatOf("Hello", 0))},
		"in chunks":       {body: io.MultiReader(strings.NewReader(chatOf("Hello", 0))), length: len(chatOf("Hello", 0))},
		"malformed":       {body: strings.NewReader(`{"messages":[`), length: 13},
		"empty":           {body: http.NoBody},
		"compressed":      {body: bytes.NewReader(zipped.Bytes()), header: []string{"Content-Encoding", "gzip"}, length: zipped.Len()},
		"huge":            {body: strings.NewReader(huge), length: len(huge)},
		"huge, in chunks": {body: io.MultiReader(strings.NewReader(huge)), length: len(huge)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res := post(t, soon(t), url, tt.body, tt.header...)
			got, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, fmt.Sprintf("%d <nil>", tt.length), string(got))
		})
	}
	t.Run("too long", func(t *testing.T) {
		res := post(t, soon(t), url, strings.NewReader(chatOf(strings.Repeat("x", limit), 0)))
		require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	})
	t.Run("shorter than it says", func(t *testing.T) {
		c, err := new(net.Dialer).DialContext(soon(t), "tcp", strings.TrimPrefix(url, "http://"))
		require.NoError(t, err)
		defer c.Close()
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
		require.NoError(t, c.(*net.TCPConn).CloseWrite())
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		defer res.Body.Close()
		require.Equal(t, http.StatusBadRequest, res.StatusCode)
		require.Empty(t, res.Header.Get("Replica"))
	})
}

// All turns of a conversation have one replica, also where the first message is longer than what is
// read ahead. Different conversations are spread.
func TestProxy_Conversations(t *testing.T) {
	t.Parallel()
	url, _ := front(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	spread := make(map[string]int)
	for n := range 40 {
		first := fmt.Sprint(n)
		if n%4 == 0 {
			first = strings.Repeat(first, 2*ahead)
		}
		var replica string
		for turn := range 5 {
			got := post(t, soon(t), url, strings.NewReader(chatOf(first, turn))).Header.Get("Replica")
			require.NotEmpty(t, got)
			if turn > 0 {
				require.Equal(t, replica, got)
			}
			replica = got
		}
		spread[replica]++
	}
	require.Len(t, spread, 4)
	t.Logf("40 conversations of 5 turns: %v", spread)
}

// While a replica says that it is full, drains, or is down, another one serves its conversations,
// and they come back to it.
func TestProxy_FallsOver(t *testing.T) {
	t.Parallel()
	var full atomic.Value // the name of the replica that says so
	full.Store("")
	url, lb := front(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.Header.Get("Replica") == full.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	ask := func() string {
		res := post(t, soon(t), url, strings.NewReader(chatOf("Hello", 0)))
		require.Equal(t, http.StatusOK, res.StatusCode)
		return res.Header.Get("Replica")
	}
	home := ask()
	away := func(what string) {
		for range 10 {
			require.NotEqual(t, home, ask(), what)
		}
	}
	full.Store(home)
	away("full")
	full.Store("")
	require.Equal(t, home, ask())

	m, ok := lb.Pool.Member(home)
	require.True(t, ok)
	m.SetAdmin(balancer.Draining)
	away("draining")
	m.SetAdmin(balancer.Ready)
	require.Equal(t, home, ask())

	targets := make([]balancer.Target, 0, 4)
	for _, m := range lb.Pool.Members() {
		target := m.Target()
		if target.ID == home {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			target.Addr = l.Addr().String()
			require.NoError(t, l.Close()) // nobody listens there
		}
		targets = append(targets, target)
	}
	require.NoError(t, lb.Pool.Update(targets...))
	away("down")
}

// One conversation that sends many requests at a time gets all replicas, and none of these more
// than it can compute. What is too much for all of them waits.
func TestProxy_BoundedLoad(t *testing.T) {
	t.Parallel()
	came, release := make(chan string, 5*slots), make(chan struct{})
	url, lb := front(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		came <- r.Header.Get("Replica")
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	done := make(chan int, 5*slots)
	for range 5 * slots {
		go func() {
			res, err := http.Post(url, "application/json", strings.NewReader(chatOf("Hello", 0)))
			if err != nil {
				done <- 0
				return
			}
			res.Body.Close()
			done <- res.StatusCode
		}()
	}
	load := make(map[string]int)
	for range 4 * slots {
		load[wait(t, came, "a request")]++
	}
	require.Equal(t, map[string]int{"a": slots, "b": slots, "c": slots, "d": slots}, load)
	require.Eventually(t, func() bool { return lb.Pool.Waiting() == slots }, patience, time.Millisecond)
	require.Empty(t, came)
	close(release)
	for range 5 * slots {
		require.Equal(t, http.StatusOK, wait(t, done, "an answer"))
	}
}

// A conversation that sends a few requests at a time does not get more of one replica than its
// share of the load allows, although a hash of its key chooses that one.
func TestProxy_ChosenPrompts(t *testing.T) {
	t.Parallel()
	came := make(chan string, slots)
	url, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		came <- r.Header.Get("Replica")
		<-r.Context().Done()
	})
	for range slots {
		go func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(chatOf("Hello", 0)))
			if err == nil {
				http.DefaultClient.Do(r) // ends with the test
			}
		}()
	}
	load := make(map[string]int)
	for range slots {
		load[wait(t, came, "a request")]++
	}
	for replica, n := range load {
		require.LessOrEqual(t, n, 3, "%s of %v", replica, load) // 1.25 times the mean of 2
	}
}

// The client gets each token when the replica has written it: the replica writes the next one only
// when the client has read the one before. Two hundred times.
func TestProxy_TokenByToken(t *testing.T) {
	t.Parallel()
	const tokens = 200
	read := make(chan struct{})
	url, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range tokens {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			select {
			case <-read:
			case <-r.Context().Done():
				return
			}
		}
	})
	body := bufio.NewReader(post(t, soon(t), url, strings.NewReader(chatOf("Hello", 0))).Body)
	for i := range tokens {
		line, err := body.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("data: %d\n", i), line)
		_, err = body.ReadString('\n')
		require.NoError(t, err)
		read <- struct{}{}
	}
	_, err := body.ReadByte()
	require.ErrorIs(t, err, io.EOF)
}

// When a client goes away in the middle of its stream, the replica's request ends, and its place is
// free.
func TestProxy_ClientGoesAway(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{}, 1)
	url, lb := front(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "data: 1\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		ended <- struct{}{}
	})
	for range 20 {
		ctx, cancel := context.WithCancel(soon(t))
		res := post(t, ctx, url, strings.NewReader(chatOf("Hello", 0)))
		_, err := io.ReadFull(res.Body, make([]byte, 9))
		require.NoError(t, err)
		cancel()
		wait(t, ended, "the end of the replica's request")
		require.Eventually(t, func() bool { return idle(lb) }, patience, time.Millisecond)
	}
}

// When a client goes away while it waits for a place or for its first token, it leaves neither
// behind.
func TestProxy_ClientGoesAwayEarly(t *testing.T) {
	t.Parallel()
	came, ended := make(chan struct{}, 5*slots), make(chan struct{}, 5*slots)
	url, lb := front(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		came <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	})
	ctx, cancel := context.WithCancel(soon(t))
	gone := make(chan error, 5*slots)
	for range 5 * slots {
		go func() {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(chatOf("Hello", 0)))
			if err == nil {
				_, err = http.DefaultClient.Do(r)
			}
			gone <- err
		}()
	}
	for range 4 * slots {
		wait(t, came, "a request")
	}
	require.Eventually(t, func() bool { return lb.Pool.Waiting() == slots }, patience, time.Millisecond)
	cancel()
	for range 5 * slots {
		require.ErrorIs(t, wait(t, gone, "the end of a client's request"), context.Canceled)
	}
	for range 4 * slots {
		wait(t, ended, "the end of a replica's request")
	}
	require.Eventually(t, func() bool { return idle(lb) && lb.Pool.Waiting() == 0 }, patience, time.Millisecond)
}

// idle reports whether no replica has a request.
func idle(lb *wsproxy.Proxy) bool {
	for _, m := range lb.Pool.Members() {
		if m.Load() != 0 {
			return false
		}
	}
	return true
}

// Clients that stop in the middle of their bodies take no places of a replica. One that goes on
// later gets the replica of its conversation.
func TestProxy_SlowBodies(t *testing.T) {
	t.Parallel()
	url, lb := front(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
	})
	body := chatOf("Hello", 0)
	home := post(t, soon(t), url, strings.NewReader(body)).Header.Get("Replica")
	stopped := make([]net.Conn, 5*slots)
	for i := range stopped {
		c, err := new(net.Dialer).DialContext(soon(t), "tcp", strings.TrimPrefix(url, "http://"))
		require.NoError(t, err)
		defer c.Close()
		_, err = fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:20])
		require.NoError(t, err)
		stopped[i] = c
	}
	for range 10 {
		require.Equal(t, http.StatusOK, post(t, soon(t), url, strings.NewReader(body)).StatusCode)
		require.Zero(t, lb.Pool.Waiting())
	}
	for _, c := range stopped[:slots] {
		for _, b := range []byte(body[20:]) {
			_, err := c.Write([]byte{b})
			require.NoError(t, err)
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Equal(t, home, res.Header.Get("Replica"))
	}
	require.Eventually(t, func() bool { return idle(lb) }, patience, time.Millisecond)
}

// A request whose replica dies before its first token may have cost something. It is not sent to
// another one.
func TestProxy_ReplicaDiesEarly(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	url, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		asked.Add(1)
		panic(http.ErrAbortHandler)
	})
	for n := range int32(20) {
		res := post(t, soon(t), url, strings.NewReader(chatOf("Hello", 0)))
		require.Equal(t, http.StatusBadGateway, res.StatusCode)
		require.Equal(t, n+1, asked.Load())
	}
}

// breaking is a replica that dies in the middle of its stream.
func breaking(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, `data: {"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"It"}}]}`+"\n\n")
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// A client sees that a stream has broken off.
func TestProxy_ReplicaDies(t *testing.T) {
	t.Parallel()
	url, _ := front(t, breaking)
	for range 20 {
		res := post(t, soon(t), url, strings.NewReader(chatOf("Hello", 0)))
		require.Equal(t, http.StatusOK, res.StatusCode)
		_, err := io.ReadAll(res.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
}

// The openai package streams through the program, and finds its conversations' prompts cached. It
// reports a stream that has broken off.
func TestOpenAI(t *testing.T) {
	t.Parallel()
	type played struct {
		Answers, Chunks, Prompted, Cached int
		Errors                            []string
	}
	node := npmtest.Folder(t, "node")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-listen", "127.0.0.1:0"}, in)
		in.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	url := regexp.MustCompile(`http://[^ ]*/v1`).FindString(line)
	var p played
	npmtest.Play(t, soon(t), node, &p, "client.js", strings.TrimSuffix(url, "/v1"), "20", "3")
	t.Logf("%d of %d blocks of the prompts of %d answers were cached", p.Cached, p.Prompted, p.Answers)
	require.Empty(t, p.Errors)
	require.Equal(t, 60, p.Answers)
	require.Equal(t, 60*(len(strings.Fields(answer))+2), p.Chunks)
	require.Greater(t, float64(p.Cached), 0.4*float64(p.Prompted)) // at most two of three turns
	cancel()
	require.NoError(t, wait(t, ended, "the end of the program"))

	url, _ = front(t, breaking)
	var broken played
	npmtest.Play(t, soon(t), node, &broken, "client.js", url, "10", "1")
	require.Equal(t, 10, broken.Chunks)
	require.Zero(t, broken.Answers)
	require.Len(t, broken.Errors, 10)
}

// The table has more of the prompts cached with the hash than with the others.
func TestCompare(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, compare(t.Context(), &out, conversations, 5))
	t.Log(out.String())
	var shares []int
	for _, m := range regexp.MustCompile(`(\d+)%.* ms`).FindAllStringSubmatch(out.String(), -1) {
		share, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		shares = append(shares, share)
	}
	require.Len(t, shares, 3)
	require.Greater(t, shares[2], shares[0])
	require.Greater(t, shares[2], shares[1])
}

// Each error is one line.
func TestRun_SaysWhatIsWrong(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for said, args := range map[string][]string{
		"bind: address already in use": {"-listen", taken.Addr().String()},
		"unexpected argument":          {"more"},
		"-replicas needs -listen":      {"-replicas", "a=http://127.0.0.1:1"},
		"listen tcp":                   {"-listen", "127.0.0.1:none"},
		"target":                       {"-listen", "127.0.0.1:0", "-replicas", "://"},
	} {
		err := run(t.Context(), args, io.Discard)
		require.ErrorContains(t, err, said)
		require.NotContains(t, err.Error(), "\n")
	}
}
