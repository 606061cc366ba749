package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stickylb/stickylb/balancer"
)

// A Page is the status page of all pools of a process. Set its fields, then call [Page.Handler];
// afterwards they must not be changed.
type Page struct {
	// Registries are what the page is about, in this order. At least one is required. If there are
	// several, each needs a pool with a name of its own, see [balancer.Config].Name.
	Registries []*Registry

	// Hosts are the names or addresses that requests may have in Host, with any port, besides
	// loopback names (localhost and all below it, 127.0.0.0/8, ::1) and the address that their
	// connection came to. Name here what the page is reached by: the name of a reverse proxy's
	// site, for example. Letter case does not matter.
	Hosts []string

	// Who returns the name of the person or program that sends a request. It is called for each
	// button that is pressed, and what it returns is logged, shown on the page and in its JSON, and
	// part of events: it must be no secret, a token for example. At most 128 bytes of it are used.
	// An empty name, and a nil Who, stand for "somebody". Calls are concurrent. If Who panics, the
	// button does nothing.
	Who func(*http.Request) string
}

// PageStatus is what a [Page] serves as JSON.
type PageStatus struct {
	Pools []Status `json:"pools"` // in the order of Page.Registries
}

// Validate returns an error if the page cannot work with its fields: without registries, with one
// that has no pool, with pools that cannot be told apart, or with Hosts that no request can have.
// [Page.Handler] panics with that error.
func (p *Page) Validate() error {
	if len(p.Registries) == 0 {
		return errors.New("health: Page.Registries is empty")
	}
	seen := make(map[string]bool)
	for i, r := range p.Registries {
		switch {
		case r == nil:
			return fmt.Errorf("health: Page.Registries: %d is nil", i)
		case r.Pool == nil:
			return fmt.Errorf("health: Page.Registries: %d: Registry.Pool is nil", i)
		case r.Pool.Name() == "" && len(p.Registries) > 1:
			return fmt.Errorf("health: Page.Registries: %d: the pool has no name, see balancer.Config.Name", i)
		case seen[r.Pool.Name()]:
			return fmt.Errorf("health: Page.Registries: %d: another pool has the name %q", i, r.Pool.Name())
		}
		seen[r.Pool.Name()] = true
	}
	return p.validateHosts()
}

func (p *Page) validateHosts() error {
	for _, host := range p.Hosts {
		if err := checkHost(host); err != nil {
			return err
		}
	}
	return nil
}

// Status returns a picture of all pools as they are now. It is safe for concurrent use.
func (p *Page) Status() PageStatus {
	s := PageStatus{Pools: make([]Status, len(p.Registries))}
	for i, r := range p.Registries {
		s.Pools[i] = r.Status()
	}
	return s
}

// Handler returns the handler of the page. Mount it at any path, on a listener or behind a handler
// that only operators pass: it asks nobody who they are. It panics if [Page.Validate] returns an
// error.
//
// GET answers with the [PageStatus]: as a page for people if the request's Accept names text/html,
// as browsers do, and as JSON otherwise. The query decides over that: format=json, format=html.
// With pool=NAME both are about that pool alone; a name that no pool has is answered with 404. The
// page has no script and nothing from elsewhere. Its other query parameters are show (all, trouble
// or draining), q (a part of a target's ID, URL, address or zone), sort (worst, order, name, load,
// rate, failures, latency, downtime or change), page (from 1; a page has 100 targets) and refresh
// (seconds). What they cannot be counts as absent.
//
// POST takes a form with a pool's name in pool, which may be missing if there is only one, a
// target's ID in target and, in action, one of drain (as [Registry.Drain] with Registry.Drains,
// while Run runs), down ([balancer.Down] at once) and ready ([balancer.Ready], which cancels a
// drain and ends an ejection). If the pool has no target of that ID, or with leaving=true, it is
// about those that have left under it and have something in flight. It is answered as GET is,
// browsers being sent back to the page. Each button that was pressed is remembered, with Page.Who,
// and logged by the registry.
//
// Requests that a browser sends from another site are refused with 403, see
// [http.CrossOriginProtection]. Requests for a host that is neither this machine nor in Page.Hosts
// are refused with 421, GET among them: a page whose name was made to resolve to this server would
// else pass for the server's own.
func (p *Page) Handler() http.Handler {
	if err := p.Validate(); err != nil {
		panic(err)
	}
	h := &pageHandler{page: Page{Registries: slices.Clone(p.Registries), Who: p.Who}}
	return p.Protect(h)
}

// Protect returns a handler with the protection of [Page.Handler], for what else operators have on
// the same listener. It refuses with 403 what a browser sends from another site, GET and HEAD
// aside, see [http.CrossOriginProtection], and with 421 requests for a host that is neither this
// machine nor in Page.Hosts. It asks nobody who they are. It needs no Registries, and panics if
// Hosts has what no request can have.
func (p *Page) Protect(next http.Handler) http.Handler {
	if err := p.validateHosts(); err != nil {
		panic(err)
	}
	return onlyFor(p.Hosts, http.NewCrossOriginProtection().Handler(next))
}

// A pageHandler serves a page whose fields nobody changes any more.
type pageHandler struct{ page Page }

// ServeHTTP implements [http.Handler].
func (p *pageHandler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Content-Security-Policy", policy())
	switch req.Method {
	case http.MethodGet, http.MethodHead:
		p.serveStatus(w, req)
	case http.MethodPost:
		p.serveAction(w, req)
	default:
		h.Set("Allow", "GET, HEAD, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

func (p *pageHandler) serveStatus(w http.ResponseWriter, req *http.Request) {
	query := readQuery(req.URL.Query())
	if query.pool != "" && p.registry(query.pool) == nil {
		http.Error(w, "no such pool", http.StatusNotFound)
		return
	}
	if wantsPage(req) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		pageTemplate().Execute(w, newView(query, p.page.Status()))
		return
	}
	s := p.page.Status()
	if query.pool != "" {
		s.Pools = slices.DeleteFunc(s.Pools, func(s Status) bool { return s.Pool != query.pool })
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(s)
}

// wantsPage reports whether the request is a person's.
func wantsPage(req *http.Request) bool {
	switch req.URL.Query().Get("format") {
	case "json":
		return false
	case "html":
		return true
	}
	for _, line := range req.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			mediaType, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(mediaType), "text/html") {
				return true
			}
		}
	}
	return false
}

// registry returns the registry of the pool of that name, nil if there is none.
func (p *pageHandler) registry(pool string) *Registry {
	for _, r := range p.page.Registries {
		if r.Pool.Name() == pool {
			return r
		}
	}
	return nil
}

// maxForm is the most that is read of a POST.
const maxForm = 16 << 10

func (p *pageHandler) serveAction(w http.ResponseWriter, req *http.Request) {
	req.Body = http.MaxBytesReader(w, req.Body, maxForm)
	if err := req.ParseForm(); err != nil {
		http.Error(w, "the form cannot be read", http.StatusBadRequest)
		return
	}
	order, status, problem := p.readOrder(req)
	if problem == "" {
		status, problem = order.carryOut()
	}
	if problem != "" {
		http.Error(w, problem, status)
		return
	}
	if !wantsPage(req) {
		p.serveStatus(w, req)
		return
	}
	// The page may be mounted below a prefix that was stripped: a reference without a path
	// leads back to it all the same.
	query := readQuery(req.URL.Query())
	w.Header().Set("Location", newView(query, p.page.Status()).placeOf(order.registry.Pool.Name(), order.target))
	w.WriteHeader(http.StatusSeeOther)
}

// An order is what a button asks for.
type order struct {
	registry       *Registry
	target, action string
	leaving        bool
	members        []*balancer.Member
	by             string
}

// readOrder reads the form of a button. If it cannot be carried out, the answer has that status and
// says what the problem is.
func (p *pageHandler) readOrder(req *http.Request) (o order, status int, problem string) {
	form := req.PostForm
	o.action, o.leaving = form.Get("action"), form.Get("leaving") == "true"
	switch {
	case form.Has("pool"):
		o.registry = p.registry(form.Get("pool"))
	case len(p.page.Registries) == 1:
		o.registry = p.page.Registries[0]
	default:
		return o, http.StatusBadRequest, "there are several pools: the form must name one in pool"
	}
	if o.registry == nil {
		return o, http.StatusNotFound, "no such pool"
	}
	var ok bool
	if o.target, ok = readTarget(form.Get("target"), form.Get("quoted") == "true"); !ok {
		return o, http.StatusBadRequest, "the target cannot be read"
	}
	find := o.registry.find
	if o.leaving {
		find = o.registry.findLeaving
	}
	if o.members = find(o.target); len(o.members) == 0 {
		return o, http.StatusNotFound, "no such target"
	}
	if !slices.Contains([]string{"drain", "down", "ready"}, o.action) {
		return o, http.StatusBadRequest, "the action is none of drain, down and ready"
	}
	o.by = p.page.who(req)
	return o, 0, ""
}

// writeTarget returns an ID as a form can carry it. Browsers change other bytes: it is quoted then.
func writeTarget(id string) (value string, quoted bool) {
	if utf8.ValidString(id) && !strings.ContainsAny(id, "\r\n\x00") {
		return id, false
	}
	return strconv.QuoteToASCII(id), true
}

// readTarget returns the ID in a form.
func readTarget(value string, quoted bool) (id string, ok bool) {
	if !quoted {
		return value, true
	}
	id, err := strconv.Unquote(value)
	return id, err == nil
}

// maxWho is the most bytes that are used of a name.
const maxWho = 128

// who returns the name of the one who sends a request.
func (p *Page) who(req *http.Request) string {
	var name string
	if p.Who != nil {
		name = p.Who(req)
	}
	if len(name) > maxWho {
		name = name[:maxWho] // what is left of the last character is no UTF-8
	}
	if name = strings.TrimSpace(strings.ToValidUTF8(name, "\uFFFD")); name == "" {
		return "somebody"
	}
	return name
}

// carryOut does what the button says, and writes it down.
func (o *order) carryOut() (status int, problem string) {
	for _, m := range o.members {
		if problem = o.act(m); problem != "" {
			status = http.StatusConflict
			break
		}
	}
	o.registry.recordPress(Press{
		At: universal(time.Now()), By: o.by, Action: o.action, Target: o.target, Leaving: o.leaving, Problem: problem,
	})
	return status, problem
}

func (o *order) act(m *balancer.Member) (problem string) {
	r := o.registry
	switch o.action {
	case "drain":
		if err := r.startDrain(m, o.by); errors.Is(err, ErrNotRunning) {
			return "the registry is not running"
		}
	case "down":
		r.because(m, balancer.Down, "", o.by)
		m.SetAdmin(balancer.Down)
	case "ready":
		r.because(m, balancer.Ready, "", o.by)
		m.SetAdmin(balancer.Ready)
		r.pardonedBy(m, o.by)
		m.Eject(time.Time{})
	}
	return ""
}
