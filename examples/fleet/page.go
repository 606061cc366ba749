package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/stickylb/stickylb/health"
)

//go:embed page.html
var page []byte

// requestTimeout is the limit for a request of a visitor.
const requestTimeout = 5 * time.Second

// A visitor is a client with a session, which it has in a header or in a cookie.
type visitor struct {
	header bool

	mu      sync.Mutex
	session string
	turn    int // of the balancers
}

// A visit has what the page shows about a request.
type visit struct {
	answer
	Balancer string
	Refused  int // balancers that were asked before, and are gone
}

// visit sends a request to the next balancer that accepts connections, like a client that knows
// several addresses of a site.
func (v *visitor) visit(balancers []string) (seen visit, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for range balancers {
		v.turn++
		if err = v.ask(balancers[v.turn%len(balancers)], &seen); err == nil {
			v.session = seen.Session
			return seen, nil
		}
		seen.Refused++
	}
	return seen, err
}

var client = &http.Client{Timeout: requestTimeout}

func (v *visitor) ask(addr string, seen *visit) error {
	r, err := http.NewRequest(http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		return err
	}
	if v.header {
		r.Header.Set(sessionHeader, v.session)
	} else {
		r.AddCookie(&http.Cookie{Name: sessionCookie, Value: v.session})
	}
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	seen.Balancer = res.Header.Get("Balancer")
	return json.NewDecoder(res.Body).Decode(&seen.answer)
}

// A process has what the page shows about a part.
type process struct {
	Name string
	PID  int // 0: it does not run
}

// handler returns the handler of the page and its buttons.
func (f *fleet) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	mux.HandleFunc("GET /processes", func(w http.ResponseWriter, _ *http.Request) {
		var all []process
		for _, p := range f.parts {
			all = append(all, process{p.name, p.pid()})
		}
		json.NewEncoder(w).Encode(all)
	})
	mux.HandleFunc("POST /processes/{name}/{action}", f.press)
	mux.HandleFunc("POST /visit/{visitor}", func(w http.ResponseWriter, r *http.Request) {
		v := f.visitors[r.PathValue("visitor")]
		if v == nil {
			http.NotFound(w, r)
			return
		}
		seen, err := v.visit(f.balancers)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		json.NewEncoder(w).Encode(seen)
	})
	return (&health.Page{}).Protect(mux)
}

// press kills or starts a part.
func (f *fleet) press(w http.ResponseWriter, r *http.Request) {
	p := f.part(r.PathValue("name"))
	switch action := r.PathValue("action"); {
	case p != nil && action == "kill":
		p.kill()
	case p != nil && action == "start":
		if err := p.start(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	default:
		http.NotFound(w, r)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
