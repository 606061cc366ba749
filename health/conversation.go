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
// own. It can check Redis, SMTP, MySQL and other protocols. A target is healthy if every step
// succeeds. Targets with the schemes https and wss are checked over TLS, and so are tcp targets if
// TLS is set. All others are checked in plain text. All steps together have the time that the
// context gives, see Timeout in [Registry].
//
// Errors never show what was sent, because it may hold a password. They quote the beginning of what
// the target said. Parts that repeat four or more octets of what was sent are left out, in upper or
// lower case. Passwords that the target encodes, or knows from elsewhere, are not recognized.
type Conversation struct {
	// Steps are done in order. At least one is required. The check does not change them.
	Steps []Step

	// TLS is used for https, wss and tcp targets. The target's ServerName and Certificate replace
	// those of TLS if they are set, see [balancer.Target.TLSConfig]. For tcp targets nil means
	// plain text. For the others it means the zero [tls.Config], which verifies the certificate
	// against the system's roots. TLS is cloned and never changed.
	TLS *tls.Config

	// Dial opens the connection. Nil means a plain [net.Dialer].
	Dial DialFunc
}

// A Step of a [Conversation] first sends something, then expects something, or does only one of
// both. It expects at most one of Prefix, Contains and Match.
//
// A step waits until the expected text has come or can no longer come. It consumes the target's
// octets up to the end of the expected text, and the next step begins after them.
//
// How the octets are split into packets makes no difference, except for a Match that depends on
// what follows: $ matches at the end of the octets that have come so far, and `.*` takes no more
// than these. So a step that expects a line should include its end, as a Match of `^220 .*\r\n`
// does. Otherwise the next step may get the rest of the line.
type Step struct {
	// Send is sent as it is, at most 64 KiB. Empty means nothing.
	Send string

	// Prefix must be the next octets of the target. Anything else fails at once.
	Prefix string

	// Contains must be somewhere in the next octets of the target.
	Contains string

	// Match must match the next octets of the target. It is tried again on all of them whenever
	// more octets come. An octet that is not UTF-8 matches as U+FFFD does. A Match that matches the
	// empty text is refused.
	Match *regexp.Regexp

	// Limit is how many octets may come until the end of the expected text. Zero means 4 KiB. A
	// negative Limit and one above 64 KiB are refused.
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

// take does one step. It returns nil if the step succeeds.
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

// What a step knows about the expected text.
const (
	heardAll   = iota // it is there
	heardSome         // it can still come
	heardOther        // it cannot come any more
)

// look looks for the expected text. If it is there, used is how many octets the step consumes.
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

// refuse returns the failure for octets that the step does not expect.
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

// unheard returns the failure for an error of the connection, with what the target has said before.
func (c Conversation) unheard(a *attempt, err error, words []byte) *failure {
	if len(words) == 0 {
		return a.fail(err, "no answer")
	}
	f := a.fail(err, "answer not complete")
	f.reason += ", the target has said " + c.quoted(words)
	return f
}

// minEcho is the shortest repetition of sent octets that is left out of an error.
const minEcho = 4

// quoted returns the beginning of words, without parts that repeat what any step sends.
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

// lowered returns a copy with ASCII letters in lower case.
func lowered(b []byte) []byte {
	out := bytes.Clone(b)
	for i, c := range out {
		if 'A' <= c && c <= 'Z' {
			out[i] = c | 0x20
		}
	}
	return out
}

// A hearing holds the target's octets that no step has consumed yet.
type hearing struct{ words []byte }

// more reads more octets. It keeps at most limit octets.
func (h *hearing) more(conn net.Conn, limit int) error {
	if len(h.words) == cap(h.words) {
		h.words = append(make([]byte, 0, min(limit, max(512, 2*len(h.words)))), h.words...)
	}
	n, err := conn.Read(h.words[len(h.words):min(limit, cap(h.words))])
	h.words = h.words[:len(h.words)+n]
	if n > 0 {
		return nil // the next Read returns the error again
	}
	return err
}
