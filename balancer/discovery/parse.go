package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/stickylb/stickylb/balancer"
)

// Parse reads the text of a [File]. Text that begins with a bracket or a brace is JSON, and all
// other text is lines. The targets are normalized, see [balancer.Normalize], so each has an ID. An
// error names the line, and contains no password. Two targets with the same ID are an error.
//
// Lines have the syntax of [balancer.ParseTargets]. Lines that begin with # are comments. The last
// line must end with a line break too, because a file without it may be half-written.
//
//	# ID, URL and options
//	app-1=http://10.0.0.1:3000
//	app-2=http://10.0.0.2:3000;weight=2;zone=b
//
// JSON is an array of strings in this syntax, or of objects. In an object "url" is required. The
// other names set the fields of a [balancer.Target]: "id", "addr", "server_name", "weight", "zone",
// "labels", "backup", "max_requests" and "max_tunnels". Unknown names are refused. Numbers have the
// ranges that ParseTargets accepts: a weight is -1 or at least 1, and a limit is at least 1.
//
//	[
//	  "app-1=http://10.0.0.1:3000",
//	  {"id": "app-2", "url": "http://10.0.0.2:3000", "weight": 2, "zone": "b"}
//	]
//
// Text without targets and an empty array are refused, so that no failure of the program that
// writes the file removes all targets.
func Parse(text []byte) ([]balancer.Target, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // some editors begin files so
	var l list
	var err error
	switch begin := bytes.TrimSpace(text); {
	case len(begin) == 0:
		return nil, errors.New("discovery: the file is empty")
	case begin[0] == '[' || begin[0] == '{':
		err = l.readJSON(text)
	default:
		err = l.readLines(text)
	}
	if err != nil {
		return nil, err
	}
	if len(l.targets) == 0 {
		return nil, errors.New("discovery: the file has no targets")
	}
	return l.targets, nil
}

// A list collects the targets of a file.
type list struct {
	targets []balancer.Target
	lines   map[string]int // by ID
}

// add adds a target that is in a line.
func (l *list) add(t balancer.Target, line int) error {
	if was, ok := l.lines[t.ID]; ok {
		return fmt.Errorf("discovery: line %d: the ID %q is also in line %d", line, t.ID, was)
	}
	if l.lines == nil {
		l.lines = make(map[string]int)
	}
	l.lines[t.ID] = line
	l.targets = append(l.targets, t)
	return nil
}

func (l *list) readLines(text []byte) error {
	line := 0
	for raw := range bytes.Lines(text) {
		line++
		if raw[len(raw)-1] != '\n' {
			return fmt.Errorf("discovery: line %d has no line break at its end: the file may be half-written", line)
		}
		if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("#")) {
			continue
		}
		for field := range strings.FieldsSeq(string(raw)) {
			if err := l.addText(field, line); err != nil {
				return err
			}
		}
	}
	return nil
}

// addText adds a target in the syntax of ParseTargets.
func (l *list) addText(text string, line int) error {
	targets, err := balancer.ParseTargets(text)
	switch {
	case err != nil:
		return inLine(line, err)
	case len(targets) != 1:
		return fmt.Errorf("discovery: line %d: %d targets in one string", line, len(targets))
	}
	return l.add(targets[0], line)
}

// inLine returns an error of package balancer with the line in place of the target's number.
func inLine(line int, err error) error {
	if cause := errors.Unwrap(err); cause != nil {
		err = cause
	}
	return fmt.Errorf("discovery: line %d: %w", line, err)
}

func (l *list) readJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	fail := func(err error) error {
		offset := d.InputOffset()
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			offset = e.Offset
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			offset, err = int64(len(text)), errors.New("the JSON is incomplete: the file may be half-written")
		}
		return fmt.Errorf("discovery: line %d: %w", lineAt(text, offset), err)
	}
	if begin, err := d.Token(); err != nil {
		return fail(err)
	} else if begin != json.Delim('[') {
		return fail(errors.New("the JSON is not an array"))
	}
	for d.More() {
		var element json.RawMessage
		if err := d.Decode(&element); err != nil {
			return fail(err)
		}
		if err := l.addJSON(element, lineAt(text, d.InputOffset()-int64(len(element)))); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil { // the bracket at the end
		return fail(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fail(errors.New("there is more after the JSON"))
	}
	return nil
}

// lineAt returns the number of the line that an offset is in.
func lineAt(text []byte, offset int64) int {
	return 1 + bytes.Count(text[:min(int64(len(text)), max(0, offset))], []byte("\n"))
}

// An entry is a target in JSON.
type entry struct {
	ID          string            `json:"id"`
	URL         string            `json:"url"`
	Addr        string            `json:"addr"`
	ServerName  string            `json:"server_name"`
	Weight      *int              `json:"weight"`
	Zone        string            `json:"zone"`
	Labels      map[string]string `json:"labels"`
	Backup      bool              `json:"backup"`
	MaxRequests *int              `json:"max_requests"`
	MaxTunnels  *int              `json:"max_tunnels"`
}

// addJSON adds an element of the array.
func (l *list) addJSON(element json.RawMessage, line int) error {
	if element[0] == '"' {
		var text string
		if err := json.Unmarshal(element, &text); err != nil {
			return inLine(line, err)
		}
		return l.addText(text, line)
	}
	d := json.NewDecoder(bytes.NewReader(element))
	d.DisallowUnknownFields()
	var e entry
	if element[0] != '{' {
		return inLine(line, errors.New("neither an object nor a string"))
	}
	if err := d.Decode(&e); err != nil {
		return inLine(line, err)
	}
	t, err := e.target()
	if err != nil {
		return inLine(line, err)
	}
	normal, err := balancer.Normalize(t)
	if err != nil {
		return inLine(line, err)
	}
	return l.add(normal[0], line)
}

// target returns the target that e describes.
func (e *entry) target() (balancer.Target, error) {
	var t balancer.Target
	if front, _, _ := strings.Cut(e.URL, "/"); strings.ContainsAny(front, "=") || strings.ContainsAny(e.URL, "; \t\r\n") {
		return t, errors.New("the url has an ID, an option or a space: these have their own fields")
	}
	parsed, err := balancer.ParseTargets(e.URL) // its errors repeat no password
	if err != nil {
		return t, errors.Unwrap(err)
	}
	if len(parsed) != 1 {
		return t, errors.New("there is no url")
	}
	t = balancer.Target{
		ID: e.ID, URL: parsed[0].URL, Addr: e.Addr, ServerName: e.ServerName, Zone: e.Zone, Labels: e.Labels, Backup: e.Backup,
	}
	for _, n := range []struct {
		name  string
		value *int
		least int
		field *int
	}{
		{"weight", e.Weight, -1, &t.Weight},
		{"max_requests", e.MaxRequests, 1, &t.MaxRequests},
		{"max_tunnels", e.MaxTunnels, 1, &t.MaxTunnels},
	} {
		switch {
		case n.value == nil:
		case *n.value < n.least || *n.value == 0:
			return t, fmt.Errorf("%s is %d", n.name, *n.value)
		default:
			*n.field = *n.value
		}
	}
	return t, nil
}
