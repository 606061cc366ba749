package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/stickylb/stickylb/balancer"
)

// Parse reads the text of a [File]. Text that begins with a bracket or a brace is JSON, and all
// other text is lines. The targets are normalized, see [balancer.Normalize], so each has an ID. An
// error names the line, and contains no password. The text must be UTF-8. Two targets with the same
// ID are an error.
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
// "for_zones", "labels", "backup", "max_requests" and "max_tunnels". Unknown names are refused, and
// so is a name that is there twice. Numbers have the ranges that ParseTargets accepts: a weight is
// -1 or at least 1, and a limit is at least 1.
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
	if valid := validPrefix(text); valid < len(text) {
		return nil, fmt.Errorf("discovery: line %d: the text is not UTF-8", lineAt(text, int64(valid)))
	}
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

// validPrefix returns the length of the UTF-8 that text begins with.
func validPrefix(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(text)
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
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			offset = e.Offset
			ended = ended || e.Error() == "unexpected end of JSON input" // from Go 1.27 on also of a Decoder
		}
		if ended {
			offset, err = int64(len(text)), errors.New("the JSON is incomplete: the file may be half-written")
		}
		return fmt.Errorf("discovery: line %d: %w", lineAt(text, offset), err)
	}
	if begin, err := d.Token(); err != nil {
		return fail(err)
	} else if begin != json.Delim('[') {
		return fail(errors.New("the JSON is not an array"))
	}
	line, counted := 1, int64(0) // of text
	for d.More() {
		var element json.RawMessage
		if err := d.Decode(&element); err != nil {
			return fail(err)
		}
		begin := d.InputOffset() - int64(len(element))
		line, counted = line+bytes.Count(text[counted:begin], []byte("\n")), begin
		if err := l.addJSON(element, line); err != nil {
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
	ForZones    []string          `json:"for_zones"`
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
	if element[0] != '{' {
		return inLine(line, errors.New("neither an object nor a string"))
	}
	t, err := readEntry(element)
	switch {
	case err != nil && (bytes.ContainsRune(element, '@') || bytes.Contains(element, []byte(`\u0040`))):
		return inLine(line, errors.New("not an object for a target; user information is refused")) // see ParseTargets
	case err != nil:
		return inLine(line, err)
	}
	return l.add(t, line)
}

// readEntry returns the target that an object describes.
func readEntry(object []byte) (balancer.Target, error) {
	var e entry
	if err := checkNames(json.NewDecoder(bytes.NewReader(object)), true); err != nil {
		return balancer.Target{}, err
	}
	if err := json.Unmarshal(object, &e); err != nil {
		return balancer.Target{}, err
	}
	t, err := e.target()
	if err != nil {
		return t, err
	}
	normal, err := balancer.Normalize(t)
	if err != nil {
		return t, err
	}
	return normal[0], nil
}

// names are those in an entry. Package json itself would take them in any case.
var names = []string{
	"id", "url", "addr", "server_name", "weight", "zone", "for_zones", "labels", "backup", "max_requests", "max_tunnels",
}

// checkNames reads a value. It returns an error if an object in it has a name twice, or if the
// value is an entry and has an unknown name.
func checkNames(d *json.Decoder, isEntry bool) error {
	begin, err := d.Token()
	if err != nil || begin != json.Delim('{') && begin != json.Delim('[') {
		return err
	}
	seen := make(map[json.Token]bool)
	for d.More() {
		if begin == json.Delim('{') {
			name, err := d.Token()
			switch {
			case err != nil:
				return err
			case seen[name]:
				return fmt.Errorf("the name %q is there twice", name)
			case isEntry && !slices.Contains(names, name.(string)):
				return fmt.Errorf("the name %q is none of %s", name, strings.Join(names, ", "))
			}
			seen[name] = true
		}
		if err := checkNames(d, false); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
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
	if strings.ContainsFunc(e.ID, func(c rune) bool { return c == ',' || !unicode.IsPrint(c) }) {
		return t, errors.New("the ID has a comma or an unprintable character")
	}
	t = balancer.Target{
		ID: e.ID, URL: parsed[0].URL, Addr: e.Addr, ServerName: e.ServerName, Zone: e.Zone, ForZones: e.ForZones, Labels: e.Labels,
		Backup: e.Backup,
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
