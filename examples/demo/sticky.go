package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
)

// Names of the cookies that bind a session to a backend. The second has the same purpose as the
// first for cross-origin requests. The third is for -sticky app=COOKIE. Each mode has a name of its
// own, because one policy may take over the sessions of another.
const (
	lbCookie     = "AWSELB"
	lbCookieTwin = lbCookie + "CORS"
	lbCookieApp  = lbCookie + "-APP"
)

// A sticky is a mode of -sticky.
type sticky struct {
	text   string // as given
	mode   string // none, lb, app, learn, learn-header or header
	name   string // of the application's cookie, or of a header
	period time.Duration
}

const (
	keySize = 32 // octets
	maxKeys = 8
)

const stickyModes = "lb, lb=DURATION, app=COOKIE, learn=COOKIE, learn-header=NAME, header=NAME, none"

// parseSticky parses a mode. The policy validates the names in it.
func parseSticky(text string) (sticky, error) {
	mode, arg, given := strings.Cut(text, "=")
	s := sticky{text: text, mode: mode, name: arg}
	switch mode {
	case "lb":
		if !given {
			return s, nil
		}
		var err error
		if s.period, err = time.ParseDuration(arg); err != nil || s.period <= 0 {
			return sticky{}, errors.New("no duration such as lb=1h")
		}
		return s, nil
	case "app", "learn", "learn-header", "header":
		if given {
			return s, nil
		}
	case "none":
		if !given {
			return s, nil
		}
	}
	return sticky{}, errors.New("the modes are " + stickyModes)
}

// policy returns the policy of the mode, or nil for none. The codec seals cookies and headers. The
// store has the learnt sessions.
func (s *sticky) policy(codec *cookie.Sealed, store *stickiness.MemoryStore) (stickiness.Policy, error) {
	switch s.mode {
	case "lb":
		return stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: lbCookie, Period: s.period,
			HttpOnly: true, SameSite: http.SameSiteLaxMode, Codec: codec})
	case "app":
		return stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: s.name, Name: lbCookieApp, Codec: codec})
	case "learn":
		if s.name == "" {
			return nil, errors.New("no name of the application's cookie")
		}
		return stickiness.NewLearn(stickiness.LearnOptions{Store: store, Cookie: s.name})
	case "learn-header":
		return stickiness.NewLearn(stickiness.LearnOptions{Store: store, Header: s.name})
	case "header":
		if s.name == "" {
			return nil, errors.New("no name of the header")
		}
		return stickiness.NewNamed(stickiness.NamedOptions{
			From: []stickiness.Source{stickiness.FromHeader(s.name)}, Codec: codec, Announce: s.name})
	}
	return nil, nil
}

// reads reports whether the mode's policy can read what the other mode's policy has written. The
// balancer's cookies have one name for each mode. The cookie of -sticky app=COOKIE counts only
// together with COOKIE, so sessions of another COOKIE are lost.
func (s *sticky) reads(other *sticky) bool {
	return s.mode == other.mode && (s.name == other.name || s.mode == "app")
}

// cookie returns the name of the application's session cookie, or "" if the mode uses none.
func (s *sticky) cookie() string {
	if s.mode == "app" || s.mode == "learn" {
		return s.name
	}
	return ""
}

// header returns the name of the header with the application's session, or "" if the mode uses
// none.
func (s *sticky) header() string {
	if s.mode == "learn-header" {
		return s.name
	}
	return ""
}

// parseKeys parses the keys of -seal-key. Its errors do not contain them.
func parseKeys(texts []string) ([][]byte, error) {
	if len(texts) > maxKeys {
		return nil, fmt.Errorf("%d keys are more than %d", len(texts), maxKeys)
	}
	var keys [][]byte
	for i, text := range texts {
		key, err := hex.DecodeString(text)
		if err != nil || len(key) != keySize {
			return nil, fmt.Errorf("key %d: want %d hexadecimal digits, got %d characters", i+1, 2*keySize, len(text))
		}
		keys = append(keys, key)
	}
	return keys, nil
}
