package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"

	"github.com/stickylb/stickylb/balancer"
)

// Limits of a [Step], in octets.
const (
	maxSend         = 64 << 10
	defaultReceived = 4 << 10
	maxReceived     = 64 << 10
)

// Conversation is a [Check] that sends octets and expects others, in steps, on a connection of its
// own: for Redis, SMTP, MySQL and all other protocols. A target is healthy if every step succeeds.
// Targets with the schemes https and wss are asked over TLS, and so are those with the scheme tcp
// if TLS is set; all others in plain text. The steps together have the time that the context
// gives: see Timeout in [Registry].
//
// What is sent may hold a password, so no error shows it. Errors quote the beginning of what the
// target has said, without the parts that repeat four or more octets of what was sent, in upper or
// lower case. They cannot recognize a password that the target encodes, or one that it knows from
// elsewhere.
type Conversation struct {
	// Steps are taken in order. There is at least one. They are not changed.
	Steps []Step

	// TLS is used for https, wss and tcp targets, with the target's ServerName and Certificate
	// in it if it has them; see [balancer.Target.TLSConfig]. Nil means plain text for tcp
	// targets, and the zero [tls.Config] for the others: the certificate is verified against
	// the system's roots. It is cloned and never changed.
	TLS *tls.Config

	// Dial opens the connection. Nil means a plain [net.Dialer].
	Dial DialFunc
}

// A Step of a [Conversation] sends something, expects something, or does both in this order. It
// expects one thing at most: Prefix, Contains or Match.
//
// A step waits until what it expects is there, or cannot come any more. It uses up the words up to
// the end of what it expects, and the next step begins after them. How the target's words are
// split into packets makes no difference, except to a Match that depends on what follows it: the
// end of the text, $ for example, is that of what has come so far, and `.*` takes no more. So a
// step that expects a line should expect its end too, as a Match of `^220 .*\r\n` does: the rest
// of the line may be left to the next step otherwise.
type Step struct {
	// Send is what is sent, as it is, at most 64 KiB. Empty means nothing.
	Send string

	// Prefix is what the target must say next, octet for octet. Anything else fails at once.
	Prefix string

	// Contains is what the target must say, after whatever else.
	Contains string

	// Match must match what the target says, and is tried anew with all that has come
	// whenever more comes. An octet that is not UTF-8 matches as U+FFFD does. What matches
	// no words at all is refused.
	Match *regexp.Regexp

	// Limit bounds the octets in which the target must have said what is expected. Zero means
	// 4 KiB. A negative one, and one of more than 64 KiB, is refused.
	Limit int
}

// Check implements [Check].
func (c Conversation) Check(ctx context.Context, t balancer.Target) error {
	if err := c.validate(); err != nil {
		return err
	}
	a := begin(ctx, t, c.Dial, c.TLS)
	conn, err := a.connect()
	if err != nil {
		return err
	}
	if encrypted(t.URL) || t.URL.Scheme == "tcp" && c.TLS != nil {
		if conn, err = a.secure(conn); err != nil {
			return err
		}
	}
	defer conn.Close()
	var heard hearing
	for i, step := range c.Steps {
		if f := c.take(a, conn, step, &heard); f != nil {
			return &failure{reason: fmt.Sprintf("step %d: %s", i+1, f.reason), err: f.err}
		}
	}
	return nil
}

// validate implements [validator].
func (c Conversation) validate() error {
	if len(c.Steps) == 0 {
		return errors.New("health: Conversation check: no steps")
	}
	for i, step := range c.Steps {
		if err := step.validate(); err != nil {
			return fmt.Errorf("health: Conversation check: step %d %w", i+1, err)
		}
	}
	return nil
}

func (s Step) validate() error {
	wanted := 0
	for _, set := range []bool{s.Prefix != "", s.Contains != "", s.Match != nil} {
		if set {
			wanted++
		}
	}
	switch {
	case wanted > 1:
		return errors.New("expects more than one of Prefix, Contains and Match")
	case wanted == 0 && s.Send == "":
		return errors.New("neither sends nor expects anything")
	case s.Match != nil && s.Match.MatchString(""):
		return fmt.Errorf("has a Match of %q, which needs no answer", s.Match)
	case len(s.Send) > maxSend:
		return errors.New("sends more than 64 KiB")
	case s.Limit < 0 || s.Limit > maxReceived:
		return fmt.Errorf("has a Limit of %d, which is not within 0 and 64 KiB", s.Limit)
	case max(len(s.Prefix), len(s.Contains)) > s.limit():
		return fmt.Errorf("expects more than its Limit of %d octets", s.limit())
	}
	return nil
}

func (s Step) limit() int {
	if s.Limit == 0 {
		return defaultReceived
	}
	return s.Limit
}

// take takes one step. It returns nil if that has succeeded.
func (c Conversation) take(a *attempt, conn net.Conn, step Step, heard *hearing) *failure {
	if step.Send != "" {
		if _, err := io.WriteString(conn, step.Send); err != nil {
			return a.fail(err, "not all taken that is sent")
		}
	}
	for {
		used, verdict := step.look(heard.words)
		switch verdict {
		case heardAll:
			heard.words = heard.words[used:]
			return nil
		case heardOther:
			return c.refuse(step, heard.words)
		}
		if len(heard.words) >= step.limit() {
			return c.refuse(step, heard.words)
		}
		if err := heard.more(conn, step.limit()); err != nil {
			return c.unheard(a, err, heard.words)
		}
	}
}

// What a step may know of what it expects.
const (
	heardAll   = iota // it is there
	heardSome         // it can still come
	heardOther        // it cannot come any more
)

// look looks for what the step expects. If that is there, used is how many octets it uses up.
func (s Step) look(words []byte) (used, verdict int) {
	words = words[:min(len(words), s.limit())]
	switch {
	case s.Prefix != "":
		n := min(len(words), len(s.Prefix))
		switch {
		case string(words[:n]) != s.Prefix[:n]:
			return 0, heardOther
		case n < len(s.Prefix):
			return 0, heardSome
		}
		return n, heardAll
	case s.Contains != "":
		if i := bytes.Index(words, []byte(s.Contains)); i >= 0 {
			return i + len(s.Contains), heardAll
		}
		return 0, heardSome
	case s.Match != nil:
		if at := s.Match.FindIndex(words); at != nil {
			return at[1], heardAll
		}
		return 0, heardSome
	}
	return 0, heardAll
}

// refuse says that the target's words are not what the step expects.
func (c Conversation) refuse(step Step, words []byte) *failure {
	var want string
	switch {
	case step.Prefix != "":
		want = c.quoted([]byte(step.Prefix))
	case step.Contains != "":
		want = fmt.Sprintf("%s within %d octets", c.quoted([]byte(step.Contains)), step.limit())
	default:
		want = fmt.Sprintf("a match of %s within %d octets", c.quoted([]byte(step.Match.String())), step.limit())
	}
	return &failure{reason: fmt.Sprintf("the target says %s, expected %s", c.quoted(words), want)}
}

// unheard explains why nothing more is heard of the target, and what was.
func (c Conversation) unheard(a *attempt, err error, words []byte) *failure {
	if len(words) == 0 {
		return a.fail(err, "no answer")
	}
	f := a.fail(err, "answer not complete")
	f.reason += ", the target has said " + c.quoted(words)
	return f
}

// minEcho is how many octets in a row are taken for a repetition of what was sent.
const minEcho = 4

// quoted returns the beginning of the words, without what they repeat of anything that is sent.
func (c Conversation) quoted(words []byte) string {
	near := lowered(words[:min(len(words), maxQuoted+minEcho-1)])
	repeated := make([]bool, len(near))
	for _, step := range c.Steps {
		sent := bytes.TrimSpace(lowered([]byte(step.Send)))
		n := min(minEcho, len(sent))
		for i := 0; n > 0 && i+n <= len(near); i++ {
			if !bytes.ContainsAny(near[i:i+n], "\r\n") && bytes.Contains(sent, near[i:i+n]) {
				for j := range n {
					repeated[i+j] = true
				}
			}
		}
	}
	var out []byte
	for i := range min(len(words), maxQuoted) {
		switch {
		case !repeated[i]:
			out = append(out, words[i])
		case i == 0 || !repeated[i-1]:
			out = append(out, "[sent]"...)
		}
	}
	if len(words) > maxQuoted {
		return strconv.Quote(string(out)) + "..."
	}
	return strconv.Quote(string(out))
}

// lowered returns a copy with the letters of ASCII in lower case.
func lowered(b []byte) []byte {
	out := bytes.Clone(b)
	for i, c := range out {
		if 'A' <= c && c <= 'Z' {
			out[i] = c | 0x20
		}
	}
	return out
}

// A hearing is what the target has said and no step has used up yet.
type hearing struct{ words []byte }

// more waits for more words, of which it keeps limit octets at most.
func (h *hearing) more(conn net.Conn, limit int) error {
	if len(h.words) == cap(h.words) {
		h.words = append(make([]byte, 0, min(limit, max(512, 2*len(h.words)))), h.words...)
	}
	n, err := conn.Read(h.words[len(h.words):min(limit, cap(h.words))])
	h.words = h.words[:len(h.words)+n]
	if n > 0 {
		return nil // an error will come again
	}
	return err
}
