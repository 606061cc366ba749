package balancer

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// ParseTargets reads targets from text, such as the values of a flag, an environment variable or a
// file. White space separates targets:
//
//	app-1=http://10.0.0.1:3000 app-2=https://app.internal;addr=10.0.0.2:443;weight=2
//
// A target is a URL. An ID and "=" may stand before the URL. Options may follow it, each after a
// semicolon and at most once. The options stand for the fields of [Target]:
//
//	addr=HOST:PORT, addr=unix:/PATH   Addr
//	server-name=NAME                  ServerName
//	weight=N                          Weight, -1 or from 1 on
//	zone=NAME                         Zone
//	for-zones=NAME,NAME               ForZones
//	backup                            Backup
//	max-requests=N, max-tunnels=N     MaxRequests and MaxTunnels, from 1 on
//	label.NAME=VALUE                  one of Labels
//
// An ID has only printable characters, and none of "/", ";", "," and "=". A semicolon in a URL is
// written %3B. A Certificate cannot be written as text.
//
// ParseTargets returns the targets as a pool keeps them, with their IDs. It refuses what [New]
// would refuse, such as two targets with one ID. The error names the target and repeats no
// password. Empty text is no error and has no targets.
func ParseTargets(texts ...string) ([]Target, error) {
	var targets []Target
	for _, text := range texts {
		for field := range strings.FieldsSeq(text) {
			t, err := parseTarget(field)
			if strings.Contains(field, "@") && (err != nil || t.URL.Scheme == "") {
				t.ID, err = withoutPassword(t.ID), errors.New("not a URL with options; user information is refused")
			}
			if err != nil {
				return nil, fmt.Errorf("balancer: target %d (%q): %w", len(targets), t.ID, err)
			}
			targets = append(targets, t)
		}
	}
	return Normalize(targets...)
}

// withoutPassword is for a target whose text has an @ and cannot be read. It returns the ID, or
// nothing if the ID may be the beginning of user:password@host.
func withoutPassword(id string) string {
	if strings.Contains(id, ":") {
		return ""
	}
	return id
}

// parseTarget reads one target. Together with an error it returns the ID if that is known.
func parseTarget(text string) (Target, error) {
	raw, options, more := strings.Cut(text, ";")
	var t Target
	if id, rest, ok := strings.Cut(raw, "="); ok && !strings.Contains(id, "/") {
		if err := checkID(id); err != nil {
			return t, err
		}
		t.ID, raw = id, rest
	}
	u, err := parseURL(raw)
	if err != nil {
		return t, err
	}
	t.URL = u
	seen := make(map[string]bool)
	for more {
		var option string
		option, options, more = strings.Cut(options, ";")
		name, value, valued := strings.Cut(option, "=")
		if seen[name] {
			return t, fmt.Errorf("the option %s is there twice", name)
		}
		seen[name] = true
		if err := t.setOption(name, value, valued); err != nil {
			return t, err
		}
	}
	return t, nil
}

// checkID returns an error if the text before the first "=" cannot be an ID.
func checkID(id string) error {
	switch {
	case id == "":
		return errors.New("the ID before the = is empty")
	case strings.ContainsFunc(id, func(c rune) bool { return c == ',' || !unicode.IsPrint(c) }):
		return errors.New("the ID has a comma or an unprintable character")
	}
	return nil
}

// parseURL is url.Parse with errors that say what to write, and repeat nothing else. The caller
// replaces them where raw may have a password.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err == nil {
		return u, nil
	}
	if !strings.Contains(raw, "//") {
		if _, err := url.Parse("http://" + raw); err == nil { // 127.0.0.1:3000
			return nil, fmt.Errorf("the URL has no scheme: write %q", "http://"+raw)
		}
	}
	e, ok := errors.AsType[*url.Error](err)
	switch {
	case !ok:
		return nil, errors.New("not a URL")
	case strings.HasPrefix(e.Err.Error(), "invalid port"):
		// The error would repeat the port, which may be a password that white space has separated
		// from its host.
		return nil, errors.New("not a URL: invalid port")
	}
	return nil, fmt.Errorf("not a URL: %w", e.Err)
}

// setOption sets the field that an option stands for.
func (t *Target) setOption(name, value string, valued bool) (err error) {
	if label, ok := strings.CutPrefix(name, labelPrefix); ok {
		return t.setLabel(label, value, valued)
	}
	switch {
	case name == "backup" && valued:
		return errors.New("the option backup has no value")
	case name == "backup":
		t.Backup = true
		return nil
	case value == "" && slices.Contains(targetOptions, name):
		return fmt.Errorf("the option %s needs a value", name)
	}
	switch name {
	case "addr":
		t.Addr = value
	case "server-name":
		t.ServerName = value
	case "weight":
		if t.Weight, err = strconv.Atoi(value); err != nil || t.Weight == 0 || t.Weight < -1 {
			return fmt.Errorf("weight %q is neither -1 nor a number from 1 on", value)
		}
	case "zone":
		t.Zone = value
	case "for-zones":
		t.ForZones = strings.Split(value, ",")
	case "max-requests":
		t.MaxRequests, err = parseLimit(name, value)
	case "max-tunnels":
		t.MaxTunnels, err = parseLimit(name, value)
	default:
		return fmt.Errorf("the option %q is none of %s, backup, label.NAME", name, strings.Join(targetOptions, ", "))
	}
	return err
}

// labelPrefix is what the option for a label begins with.
const labelPrefix = "label."

// setLabel sets one label. Its value may be empty.
func (t *Target) setLabel(name, value string, valued bool) error {
	switch {
	case name == "":
		return errors.New("the option label. lacks the label's name")
	case !valued:
		return fmt.Errorf("the option label.%s needs a value", name)
	}
	if t.Labels == nil {
		t.Labels = make(map[string]string)
	}
	t.Labels[name] = value
	return nil
}

// targetOptions are the options that have a value.
var targetOptions = []string{"addr", "server-name", "weight", "zone", "for-zones", "max-requests", "max-tunnels"}

func parseLimit(name, value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%s %q is not a number from 1 on", name, value)
	}
	return n, nil
}

// String returns the target as [ParseTargets] reads it, without an ID that is the default and
// without a Certificate. A semicolon in the URL becomes %3B. Anything else that ParseTargets would
// refuse, such as an ID with a slash, is written as it is.
func (t Target) String() string {
	var b strings.Builder
	if t.ID != "" && (t.URL == nil || t.ID != hostPort(t.URL)) {
		b.WriteString(t.ID + "=")
	}
	if t.URL != nil {
		b.WriteString(strings.ReplaceAll(t.URL.String(), ";", "%3B"))
	}
	option := func(name string, value any, isSet bool) {
		if isSet {
			fmt.Fprintf(&b, ";%s=%v", name, value)
		}
	}
	option("addr", t.Addr, t.Addr != "")
	option("server-name", t.ServerName, t.ServerName != "")
	option("weight", max(t.Weight, -1), t.Weight != 0 && t.Weight != 1)
	option("zone", t.Zone, t.Zone != "")
	option("for-zones", strings.Join(t.ForZones, ","), len(t.ForZones) > 0)
	if t.Backup {
		b.WriteString(";backup")
	}
	option("max-requests", t.MaxRequests, t.MaxRequests != 0)
	option("max-tunnels", t.MaxTunnels, t.MaxTunnels != 0)
	for _, name := range slices.Sorted(maps.Keys(t.Labels)) {
		option(labelPrefix+name, t.Labels[name], true)
	}
	return b.String()
}
