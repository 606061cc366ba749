package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// answerTimeout is the limit for the answer to one command.
const answerTimeout = 5 * time.Second

// Try sends a command over a connection of its own, in RESP2, and returns the answer. It returns an
// array as its elements, one a line, and nil as "". It waits five seconds at most.
func (s *Server) Try(args ...string) (string, error) {
	c, err := net.DialTimeout("tcp", s.Addr, answerTimeout)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(answerTimeout))
	var out strings.Builder
	fmt.Fprintf(&out, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&out, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := io.WriteString(c, out.String()); err != nil {
		return "", err
	}
	return answer(bufio.NewReader(c))
}

// answer reads an answer in RESP2.
func answer(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, line := line[0], strings.TrimSpace(line[1:])
	switch kind {
	case '+', ':':
		return line, nil
	case '-':
		return "", errors.New(line)
	case '$', '*':
		n, err := strconv.Atoi(line)
		if err != nil || n < 0 {
			return "", err
		}
		if kind == '$' {
			text := make([]byte, n+len("\r\n"))
			_, err := io.ReadFull(r, text)
			return string(text[:n]), err
		}
		all := make([]string, n)
		for i := range all {
			if all[i], err = answer(r); err != nil {
				return "", err
			}
		}
		return strings.Join(all, "\n"), nil
	}
	return "", fmt.Errorf("an answer that begins with %q", kind)
}

// field returns the value of a name in text that has one "name:value" a line, as INFO has.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
