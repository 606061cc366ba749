package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	settingsPath = "/settings"
	maxChange    = 64 << 10 // octets in the body of a change
)

//go:embed settings.html
var settingsText string

var settingsPage = template.Must(template.New("settings").Funcs(template.FuncMap{"join": strings.Join}).Parse(settingsText))

// A refusal is an error with the status of its answer. Its text is sent to the client but not
// logged, because it may contain a key that was put into the wrong field.
type refusal struct {
	status int
	err    error
}

func (e *refusal) Error() string { return e.err.Error() }
func (e *refusal) Unwrap() error { return e.err }

// ServeHTTP implements http.Handler. GET shows the settings, as HTML for browsers and as JSON
// otherwise. POST changes them, by a form or by JSON, completely or not at all. A change may name a
// version, in If-Match or in the body. If that is not the present one, the change is refused with
// 412. Without a version the last change wins.
func (s *settings) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "+
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		s.show(w, r, http.StatusOK, s.view(), nil)
	case http.MethodPost:
		s.serveChange(w, r)
	default:
		h.Set("Allow", "GET, HEAD, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

func (s *settings) serveChange(w http.ResponseWriter, r *http.Request) {
	c, err := readChange(w, r)
	var v view
	if err == nil {
		v, err = s.apply(c, r.RemoteAddr)
	}
	if err != nil {
		status := statusOf(err)
		s.demo.log.LogAttrs(r.Context(), slog.LevelWarn, "settings not changed", slog.String("remote", r.RemoteAddr), slog.Int("status", status))
		v := s.view()
		if status == http.StatusUnprocessableEntity {
			c.fill(&v)
		}
		s.show(w, r, status, v, err)
		return
	}
	if wantsPage(r) {
		http.Redirect(w, r, settingsPath, http.StatusSeeOther)
		return
	}
	s.show(w, r, http.StatusOK, v, nil)
}

func statusOf(err error) int {
	if e, ok := errors.AsType[*refusal](err); ok {
		return e.status
	}
	if errors.Is(err, errStale) {
		return http.StatusPreconditionFailed
	}
	return http.StatusUnprocessableEntity
}

// readChange reads the change of a request.
func readChange(w http.ResponseWriter, r *http.Request) (*change, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxChange))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, &refusal{http.StatusRequestEntityTooLarge, fmt.Errorf("more than %d octets", maxChange)}
	}
	if err != nil {
		return nil, &refusal{http.StatusBadRequest, errors.New("the request ends early")}
	}
	var c *change
	switch kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind {
	case "application/json":
		c, err = parseChange(body)
	case "application/x-www-form-urlencoded":
		c, err = parseForm(string(body))
	default:
		return nil, &refusal{http.StatusUnsupportedMediaType, errors.New("neither application/json nor a form")}
	}
	if err != nil {
		return nil, &refusal{http.StatusBadRequest, err}
	}
	return c, c.match(r.Header["If-Match"])
}

// match sets the version from If-Match (RFC 9110 section 13.1.1).
func (c *change) match(lines []string) error {
	if len(lines) == 0 || slices.Equal(lines, []string{"*"}) {
		return nil
	}
	version, ok := strings.CutPrefix(lines[0], `"`)
	version, quoted := strings.CutSuffix(version, `"`)
	if len(lines) > 1 || !ok || !quoted || c.Version != nil && *c.Version != version {
		return errStale
	}
	c.Version = &version
	return nil
}

// parseChange parses JSON. Its errors contain no values.
func parseChange(body []byte) (*change, error) {
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	var c *change
	err := d.Decode(&c)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil, fmt.Errorf("the JSON field %q has the wrong type", e.Field)
	}
	if err != nil && strings.HasPrefix(err.Error(), "json: unknown field ") {
		return nil, errors.New("the JSON has a field that is none of version, targets, tcp, grace, sticky, keys, new_key")
	}
	if _, more := d.Token(); err != nil || c == nil || more != io.EOF {
		return nil, errors.New("not one JSON object")
	}
	return c, nil
}

// parseForm parses a form of the page. It refuses unknown fields, and fields that are there twice.
func parseForm(body string) (*change, error) {
	fields, err := url.ParseQuery(body)
	if err != nil {
		return nil, errors.New("the form cannot be read")
	}
	c := &change{}
	for name, values := range fields {
		if len(values) > 1 {
			return nil, fmt.Errorf("the form has the field %q twice", name)
		}
		if err := c.set(name, strings.TrimSpace(values[0])); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// set sets a field of the change from a field of a form.
func (c *change) set(name, value string) error {
	words := strings.Fields(value)
	switch addr, ok := strings.CutPrefix(name, "tcp "); {
	case ok:
		if c.TCP == nil {
			c.TCP = make(map[string][]string)
		}
		c.TCP[addr] = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
	case name == "version":
		c.Version = &value
	case name == "targets":
		c.Targets = &words
	case name == "grace" && value != "":
		c.Grace = &value
	case name == "grace":
	case name == "sticky":
		c.Sticky = &value
	case name == "keys":
		c.Keys = &words
	case name == "new_key" && value == "yes":
		c.NewKey = true
	default:
		return errors.New("the form has a field that the page does not have")
	}
	return nil
}

// fill copies the values of a refused form into the page, without keys.
func (c *change) fill(v *view) {
	if c.Targets != nil {
		v.Targets = *c.Targets
	}
	if c.Sticky != nil {
		v.Sticky = *c.Sticky
	}
	for addr, ids := range c.TCP {
		if _, ok := v.TCP[addr]; ok {
			v.TCP[addr] = ids
		}
	}
}

// show answers with the settings, and with problem if it is not nil.
func (s *settings) show(w http.ResponseWriter, r *http.Request, status int, v view, problem error) {
	w.Header().Set("ETag", `"`+v.Version+`"`)
	if wantsPage(r) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		settingsPage.Execute(w, struct {
			view
			Problem error
			Modes   string
		}{v, problem, stickyModes}) // fails only if the client is gone
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if problem != nil {
		json.NewEncoder(w).Encode(map[string]string{"error": problem.Error()})
		return
	}
	json.NewEncoder(w).Encode(v)
}

// wantsPage reports whether the request asks for HTML.
func wantsPage(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }

// logged logs who has pressed a button of the handler next.
func (d *demo) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			next.ServeHTTP(w, r)
			return
		}
		r = r.Clone(r.Context())
		r.Body = http.MaxBytesReader(w, r.Body, maxChange)
		if err := r.ParseForm(); err != nil {
			http.Error(w, "the form cannot be read", http.StatusBadRequest)
			return
		}
		told := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(told, r)
		d.log.LogAttrs(r.Context(), slog.LevelInfo, "button pressed", slog.String("remote", r.RemoteAddr),
			slog.String("path", r.URL.Path), slog.String("target", r.PostForm.Get("target")),
			slog.String("action", r.PostForm.Get("action")), slog.Int("status", told.status))
	})
}

// A statusWriter records the status of the answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *statusWriter) Write(p []byte) (int, error) {
	w.status = cmp.Or(w.status, http.StatusOK)
	return w.ResponseWriter.Write(p)
}
