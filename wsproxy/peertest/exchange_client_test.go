package peertest_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
)

// received is what a client makes of the bytes that it has received.
type received struct {
	answers []string
	final   int  // how many of them are final and complete
	closing bool // the last one says that the connection ends, or ends with it
	tunnel  bool
	probed  bool
}

// playClient plays the client's side of an exchange over HTTP/1.1.
func (x *exchange) playClient(c net.Conn, answered, asked *sight) (answers []string, connection string) {
	defer c.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(answered, c)
		answered.end()
	}()
	var sent []byte
	for _, s := range x.client {
		sent = append(sent, s.text[:len(s.text)*bit(s.do == doSend)]...)
	}
	requests, bad := parseRequests(sent)
	want := len(requests)
	if n := len(requests); bad != nil && !errors.Is(bad, io.ErrUnexpectedEOF) && (n == 0 || requests[n-1].whole) {
		want++ // the answer to what is no request
	}
	methods := func(i int) string {
		if i < len(requests) {
			return requests[i].method
		}
		return "GET"
	}
	open := play(c, x.client, answered.awaitText, asked.awaitText)
	ends := slices.ContainsFunc(x.client, func(s step) bool { return s.do >= doHalfClose })
	var r received
	enough := func(got []byte, ended bool) bool {
		r = x.receive(got, ended, methods)
		return ended || r.final >= want && !ends || r.tunnel && !ends || r.probed
	}
	answered.await(enough)
	silent := false
	if open && !ends && !r.tunnel {
		play(c, []step{send(probe)}, answered.awaitText, asked.awaitText)
		want, ends = want+1, true // until the connection ends
		silent = !answered.await(enough)
	}
	play(c, []step{halfClose}, answered.awaitText, asked.awaitText)
	answered.awaitEnd()
	c.Close()
	<-done
	answered.await(enough)
	switch {
	case r.tunnel:
		return r.answers, tunnel
	case r.probed:
		return r.answers, lives
	case silent && !r.closing:
		return r.answers, waits
	default:
		return r.answers, closes
	}
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// receive reads responses. ended means that the connection is: what is not complete then never will be.
func (x *exchange) receive(got []byte, ended bool, method func(i int) string) (r received) {
	br := bufio.NewReader(bytes.NewReader(got))
	for {
		a, err := readResponse(br, method(r.final), ended)
		if err == io.EOF || err != nil && !ended && isCut(err) {
			return r
		}
		if a.body == probed {
			r.probed = true
			return r
		}
		text := a.text(x.watch)
		if err != nil {
			if isCut(err) {
				text += " cut"
			} else {
				text = "garbage"
			}
			r.answers = append(r.answers, text)
			r.final++
			return r
		}
		if a.status != 100 {
			r.answers = append(r.answers, text)
		}
		if a.status == 101 {
			r.tunnel = true
			if rest, _ := io.ReadAll(br); len(rest) > 0 {
				r.answers = append(r.answers, fmt.Sprintf("tunnel %q", rest))
			}
			return r
		}
		if a.status >= 200 {
			r.final++
			r.closing = a.closing
		}
	}
}

func isCut(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }

// A response is one that a client has read.
type response struct {
	status  int
	fields  []field
	body    string
	trailer []field
	closing bool
}

// text has of a final response its class, and of its body what a backend has made: that begins with @.
func (a *response) text(watch []string) string {
	s := strconv.Itoa(a.status)
	if a.status >= 200 {
		s = s[:1] + "xx"
	}
	s += watched(watch, a.fields)
	if strings.HasPrefix(a.body, "@") {
		if s += " " + a.body; len(a.body) > 40 {
			s = fmt.Sprintf("%.9s... %d octets", s, len(a.body))
		}
	}
	for _, f := range a.trailer {
		s += " +" + strings.ToLower(f.name)
	}
	return s + watched(watch, a.trailer)
}

// readResponse reads a response to a request with this method. It returns io.EOF if there is none, and
// io.ErrUnexpectedEOF with what there is of it.
func readResponse(br *bufio.Reader, method string, ended bool) (*response, error) {
	a := new(response)
	line, err := readLine(br, false)
	if err != nil {
		return a, err
	}
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	if a.status, err = strconv.Atoi(code); err != nil || !strings.HasPrefix(version, "HTTP/1.") || len(code) != 3 {
		return a, fmt.Errorf("status line %q", line)
	}
	if a.fields, err = readFields(br); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return a, err
	}
	m := &message{fields: a.fields, proto: version}
	a.closing = m.last()
	switch {
	case method == "HEAD", a.status < 200, a.status == 204, a.status == 304:
		return a, nil
	case method == "CONNECT" && a.status < 300:
		return a, nil
	case len(m.values("Transfer-Encoding")) == 0 && len(m.values("Content-Length")) == 0:
		body, _ := io.ReadAll(br)
		a.body, a.closing = string(body), true
		if !ended {
			return a, io.ErrUnexpectedEOF
		}
		return a, nil
	}
	err = m.readBody(br)
	a.body, a.trailer = string(m.body), m.trailer
	return a, err
}
