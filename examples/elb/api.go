package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/stickylb/stickylb/examples/elb/internal/classic"
	"github.com/stickylb/stickylb/examples/elb/internal/query"
	"github.com/stickylb/stickylb/examples/elb/internal/sigv4"
)

const (
	service = "elasticloadbalancing"
	maxCall = 1 << 20 // octets of a body
)

var encoder = query.Encoder{Namespace: "http://elasticloadbalancing.amazonaws.com/doc/2012-06-01/"}

// An api answers the calls of the query API.
type api struct {
	store    *store
	verifier *sigv4.Verifier
	other    http.Handler // for calls of other versions and services; nil: they are errors
	log      *slog.Logger
}

// ServeHTTP implements http.Handler.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := requestID()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCall))
	if err != nil {
		refuse(w, id, unreadable(err))
		return
	}
	form, fault := parameters(r, body)
	if a.other != nil && form.Get("Version") != classic.Version {
		r.Body = io.NopCloser(bytes.NewReader(body))
		a.other.ServeHTTP(w, r)
		return
	}
	if err := a.verifier.Check(r, body); err != nil {
		refuse(w, id, unsigned(err))
		return
	}
	if fault != nil {
		refuse(w, id, fault)
		return
	}
	name := form.Get("Action")
	result, fault := a.run(name, form)
	if !strings.HasPrefix(name, "Describe") || fault != nil {
		attrs := []slog.Attr{slog.String("action", name), slog.String("load_balancer", form.Get("LoadBalancerName")), slog.String("remote", r.RemoteAddr)}
		if fault != nil {
			attrs = append(attrs, slog.String("error", fault.Error()))
		}
		a.log.LogAttrs(r.Context(), slog.LevelInfo, "call", attrs...)
	}
	if fault != nil {
		refuse(w, id, fault)
		return
	}
	answer(w, id, http.StatusOK, encoder.Answer(name, result, id))
}

func (a *api) run(name string, form url.Values) (any, *classic.Fault) {
	if version := form.Get("Version"); version != classic.Version {
		return nil, classic.NewFault("NoSuchVersion", "This is version %s, not %q.", classic.Version, version)
	}
	action, fault := classic.Prepare(name, form)
	if fault != nil {
		return nil, fault
	}
	if strings.HasPrefix(name, "Describe") {
		return a.store.read(action)
	}
	return a.store.change(action)
}

// parameters returns those of the body, or those of the query for a GET.
func parameters(r *http.Request, body []byte) (url.Values, *classic.Fault) {
	text := r.URL.RawQuery
	switch r.Method {
	case http.MethodGet:
	case http.MethodPost:
		text = string(body)
		if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/x-www-form-urlencoded" {
			return nil, classic.NewFault("MalformedInput", "The body is not a form.")
		}
	default:
		return nil, &classic.Fault{Code: "InvalidAction", Status: http.StatusMethodNotAllowed, Message: "A call is a POST or a GET."}
	}
	form, err := url.ParseQuery(text)
	if err != nil {
		return nil, classic.NewFault("MalformedInput", "The form cannot be read.")
	}
	return form, nil
}

func unreadable(err error) *classic.Fault {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &classic.Fault{Code: "RequestEntityTooLarge", Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("The body has more than %d octets.", maxCall)}
	}
	return classic.NewFault("MalformedInput", "The body ends early.")
}

// unsigned returns the error of the service for one of the verifier.
func unsigned(err error) *classic.Fault {
	code := "SignatureDoesNotMatch"
	switch {
	case errors.Is(err, sigv4.ErrMissing):
		code = "MissingAuthenticationToken"
	case errors.Is(err, sigv4.ErrIncomplete):
		code = "IncompleteSignature"
	case errors.Is(err, sigv4.ErrUnknownKey):
		code = "InvalidClientTokenId"
	case errors.Is(err, sigv4.ErrExpired):
		code = "RequestExpired"
	}
	return classic.NewFault(code, "%s.", err)
}

func refuse(w http.ResponseWriter, id string, fault *classic.Fault) {
	kind := "Sender"
	if fault.Status >= http.StatusInternalServerError {
		kind = "Receiver"
	}
	answer(w, id, fault.Status, encoder.Error(kind, fault.Code, fault.Message, id))
}

func answer(w http.ResponseWriter, id string, status int, document []byte) {
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("X-Amzn-RequestId", id)
	w.WriteHeader(status)
	w.Write(document)
}

// requestID returns a random UUID (RFC 9562 section 5.4).
func requestID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// passOn returns a handler that passes calls on to another emulator as they are.
func passOn(to *url.URL) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // the signature covers it
	}}
}
