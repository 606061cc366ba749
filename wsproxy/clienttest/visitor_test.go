package clienttest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"time"

	"github.com/coder/websocket"
)

// What visitors do.
const (
	posts  = "post"   // is executed once at most
	gets   = "get"    // may be tried twice
	loads  = "load"   // a body of many packets
	opens  = "open"   // of a WebSocket
	talks  = "talk"   // one message over the WebSocket, there and back
	leaves = "leaves" // closes the WebSocket, and waits for the answer
)

// A deed is something that a visitor has done, and what came of it.
type deed struct {
	what     string
	via      int       // the balancer that was asked
	id       string    // in Request-Id
	from, to time.Time // for a message, since the last one was sent that came back
	bound    string    // the session's target before; empty when there was none
	by       string    // who answered, or has the WebSocket; empty when nobody did
	status   int       // zero when there was no answer
	cookie   bool      // the answer binds the session
	code     int       // the close frame's, for a message that was not sent back
	err      error     // what was lacking for a complete answer
	wrong    string    // than which nothing is worse
}

// String has the times of a span's String.
func (d deed) String() string {
	return fmt.Sprintf("%s %s %s-%s, via balancer %d, bound to %q, by %q, status %d, cookie %t, code %d: %v",
		d.what, d.id, since(d.from), since(d.to), d.via, d.bound, d.by, d.status, d.cookie, d.code, d.err)
}

// A visitor is a client with a session and, most of the time, a WebSocket.
type visitor struct {
	name   string
	rng    *rand.Rand
	urls   []string // of the balancers, between which it changes all the time
	client *http.Client
	bound  string
	n      uint64 // of the last deed

	ws    *websocket.Conn // nil when there is none
	at    string          // who has it
	wsVia int             // the balancer that it goes through
	alive time.Time       // when it had not ended yet: before the last message that came back was sent

	deeds []deed
}

func newVisitor(name string, urls []string, seed uint64) *visitor {
	jar, _ := cookiejar.New(nil)
	return &visitor{
		name:   name,
		rng:    rand.New(rand.NewPCG(seed, 0)),
		urls:   urls,
		client: &http.Client{Jar: jar, Transport: &http.Transport{MaxIdleConnsPerHost: 1}},
	}
}

// visit does one thing after the other until ctx ends, with a pause of about pace between them.
func (v *visitor) visit(ctx context.Context, pace time.Duration) {
	pause := func() time.Duration { return time.Duration(v.rng.Int64N(int64(pace))) }
	timer := time.NewTimer(pause())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		switch n := v.rng.IntN(100); {
		case n < 35:
			v.do(posts)
		case n < 55:
			v.do(gets)
		case n < 60:
			v.do(loads)
		default:
			v.talk()
		}
		if v.ws != nil && v.at != v.bound {
			v.leave() // the session has moved, and so does its WebSocket
		}
		timer.Reset(pace/2 + pause())
	}
}

func (v *visitor) deed(what string) deed {
	v.n++
	via := v.rng.IntN(len(v.urls))
	return deed{what: what, via: via, id: fmt.Sprintf("%s-%d", v.name, v.n), from: time.Now(), bound: v.bound}
}

func (v *visitor) done(d deed) deed {
	d.to = time.Now()
	v.deeds = append(v.deeds, d)
	return d
}

// do sends a request and reads the answer.
func (v *visitor) do(what string) deed {
	d := v.deed(what)
	method, path, want := http.MethodGet, "", []byte(nil)
	var body io.Reader
	size := v.rng.IntN(1500)
	switch what {
	case posts:
		want = blob(v.n, size)
		method, path, body = http.MethodPost, "/echo", bytes.NewReader(want)
	case loads:
		size += 256 << 10
		fallthrough
	default:
		want = blob(v.n, size)
		path = "/blob?" + url.Values{"seed": {fmt.Sprint(v.n)}, "size": {fmt.Sprint(size)}}.Encode()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, v.urls[d.via]+path, body)
	if err != nil {
		d.err = err
		return v.done(d)
	}
	r.Header.Set("Request-Id", d.id)
	res, err := v.client.Do(r)
	if err != nil {
		d.err = err
		return v.done(d)
	}
	defer res.Body.Close()
	v.answered(&d, res)
	got, err := io.ReadAll(res.Body)
	d.err = err
	switch {
	case res.StatusCode != http.StatusOK:
	case err != nil && !bytes.HasPrefix(want, got):
		d.wrong = "what came before the answer broke off is wrong"
	case err == nil && !bytes.Equal(want, got):
		d.wrong = fmt.Sprintf("%d bytes instead of %d, or wrong ones", len(got), len(want))
	}
	return v.done(d)
}

// answered notes who answers, and keeps the session.
func (v *visitor) answered(d *deed, res *http.Response) {
	d.status, d.by, d.cookie = res.StatusCode, res.Header.Get("Backend"), len(res.Cookies()) > 0
	if d.by != "" {
		v.bound = d.by
	}
}

// open opens the WebSocket.
func (v *visitor) open() {
	d := v.deed(opens)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, v.urls[d.via]+"/ws", &websocket.DialOptions{
		HTTPClient: v.client,
		HTTPHeader: http.Header{"Request-Id": {d.id}},
	})
	if res == nil {
		d.err = err
		v.done(d)
		return
	}
	v.answered(&d, res)
	if err == nil {
		v.ws, v.at, v.wsVia = ws, d.by, d.via
	} else if res.StatusCode == http.StatusSwitchingProtocols {
		d.err = err
	}
	v.alive = d.from
	v.done(d)
}

// talk sends a message of its own and reads it again. Its number and its sum are in front.
func (v *visitor) talk() bool {
	if v.ws == nil {
		if v.open(); v.ws == nil {
			return false
		}
	}
	d := v.deed(talks)
	sent := d.from
	d.from, d.by, d.via = v.alive, v.at, v.wsVia
	body := blob(v.n, v.rng.IntN(6<<10))
	message := binary.BigEndian.AppendUint64(nil, v.n)
	message = binary.BigEndian.AppendUint32(message, crc32.ChecksumIEEE(body))
	message = append(message, body...)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var got []byte
	err := v.ws.Write(ctx, websocket.MessageBinary, message)
	if err == nil || ctx.Err() == nil { // a close frame may have come before
		_, got, err = v.ws.Read(ctx)
	}
	switch {
	case err != nil:
		d.err, d.code = err, int(websocket.CloseStatus(err))
		v.ws.CloseNow()
		v.ws = nil
	case !bytes.Equal(message, got):
		d.wrong = fmt.Sprintf("%d bytes came back of %d, or wrong ones", len(got), len(message))
	}
	v.alive = sent
	v.done(d)
	return err == nil
}

// leave closes the WebSocket.
func (v *visitor) leave() {
	d := v.deed(leaves)
	d.from, d.by, d.via = v.alive, v.at, v.wsVia
	if err := v.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		d.err, d.code = err, int(websocket.CloseStatus(err))
	}
	v.ws.CloseNow()
	v.ws = nil
	v.done(d)
}

// settle comes to a session that works, with a WebSocket.
func (v *visitor) settle() error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if v.do(posts).status == http.StatusOK && v.talk() && v.at == v.bound {
			return nil
		}
		if v.ws != nil && v.at != v.bound {
			v.leave()
		}
	}
	return errors.New(v.name + " has no session and no WebSocket although nothing is wrong any more")
}

// farewell reads until the WebSocket ends, and returns the close frame's code.
func (v *visitor) farewell() int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, _, err := v.ws.Read(ctx)
	v.ws.CloseNow()
	return int(websocket.CloseStatus(err))
}
