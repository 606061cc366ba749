package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const (
	maxBackends    = 1000     // of a frontend; the list is not read further
	maxCertificate = 64 << 10 // bytes
	checkerPause   = 30 * time.Second
	connTimeout    = 2 * time.Second // of a connection to Redis that gives no answer
)

// A store reads hipache's schema from Redis, and marks backends dead in it.
type store struct {
	client rueidis.Client
	prefix string // of keys
	ttl    time.Duration
}

// A frontend is what Redis holds for a name.
type frontend struct {
	name string
	list []string // the virtual host's identifier and its backends; nil: there is no frontend
	dead []string // indexes of backends, counted without the identifier
	err  error    // the list or the set has another type
}

// open connects to the Redis server of a URL. The fragment of the URL is the prefix of the keys.
func open(address string, ttl time.Duration) (*store, error) {
	address, prefix, _ := strings.Cut(address, "#")
	option, err := rueidis.ParseURL(address)
	if err != nil {
		return nil, withoutURL(err)
	}
	if prefix, err = url.PathUnescape(prefix); err != nil {
		return nil, err
	}
	option.ForceSingleClient = true // hipache's keys do not work in a Cluster
	option.DisableCache = true
	option.DisableRetry = true     // the lookups have their own time limit
	option.AlwaysPipelining = true // a lookup that takes too long costs no connection
	option.Dialer.Timeout, option.ConnWriteTimeout = connTimeout, connTimeout
	option.ReadBufferEachConn, option.WriteBufferEachConn = 64<<10, 64<<10
	client, err := rueidis.NewClient(option)
	if err != nil {
		return nil, err
	}
	return &store{client: client, prefix: prefix, ttl: ttl}, nil
}

// read returns the frontends of the names. It returns an error if Redis cannot be asked now.
func (s *store) read(ctx context.Context, names ...string) ([]frontend, error) {
	commands := make(rueidis.Commands, 0, 2*len(names))
	for _, name := range names {
		commands = append(commands,
			s.client.B().Lrange().Key(s.prefix+"frontend:"+name).Start(0).Stop(maxBackends).Build(),
			s.client.B().Srandmember().Key(s.prefix+"dead:"+name).Count(maxBackends).Build()) // all there are
	}
	results := s.client.DoMulti(ctx, commands...)
	found := make([]frontend, len(names))
	for i, name := range names {
		f := &found[i]
		f.name = name
		for j, field := range []*[]string{&f.list, &f.dead} {
			values, err := results[2*i+j].AsStrSlice()
			switch {
			case isWrongType(err):
				f.err = err
			case err != nil:
				return nil, fmt.Errorf("%w: %w", errAway, err)
			case len(values) > 0:
				*field = values
			}
		}
	}
	return found, nil
}

// isWrongType reports whether err says that a key holds another type than it should.
func isWrongType(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && strings.HasPrefix(e.Error(), "WRONGTYPE")
}

// exists reports whether there is a frontend, even if it cannot be used.
func (f *frontend) exists() bool { return f.list != nil || f.err != nil }

// certificate returns the first name that has PEM blocks, and these; "" if none has.
func (s *store) certificate(ctx context.Context, names ...string) (name, pem string, err error) {
	commands := make(rueidis.Commands, 0, len(names))
	for _, name := range names {
		key := s.prefix + "certificate:" + name
		commands = append(commands, s.client.B().Getrange().Key(key).Start(0).End(maxCertificate).Build())
	}
	for i, result := range s.client.DoMulti(ctx, commands...) {
		text, err := result.ToString()
		switch {
		case isWrongType(err):
			return "", "", errBroken
		case err != nil:
			return "", "", fmt.Errorf("%w: %w", errAway, err)
		case text != "":
			return names[i], text, nil
		}
	}
	return "", "", nil
}

// isChecked reports whether an active checker, such as hipache-hchecker, has been at work lately.
func (s *store) isChecked(ctx context.Context) bool {
	seconds, err := s.client.Do(ctx, s.client.B().Get().Key("hchecker_ping").Build()).AsInt64()
	return err == nil && time.Since(time.Unix(seconds, 0)) <= checkerPause
}

// A mark says that backends of a frontend are dead. They have one URL.
type mark struct {
	frontend string
	url      string // as in the list
	indexes  []int
	of       int       // backends in the list
	until    time.Time // the end of the mark; a later one is not written
}

// marking adds an index to a frontend's dead set, if the list still has the URL there, and extends
// the life of the set. It announces the dead backend in every case.
var marking = rueidis.NewLuaScript(`
if ARGV[2] ~= "" and redis.call("LINDEX", KEYS[1], ARGV[1] + 1) == ARGV[2] then
	redis.call("SADD", KEYS[2], ARGV[1])
	redis.call("PEXPIRE", KEYS[2], ARGV[3])
end
redis.call("PUBLISH", "dead", ARGV[4])
return 1`)

// mark writes a mark. If onlyTell is set, an active checker decides, and mark only announces.
func (s *store) mark(ctx context.Context, m mark, onlyTell bool) error {
	keys := []string{s.prefix + "frontend:" + m.frontend, s.prefix + "dead:" + m.frontend}
	expected := m.url
	if onlyTell {
		expected = ""
	}
	for _, i := range m.indexes {
		message := fmt.Sprintf("%s;%s;%d;%d", m.frontend, withPath(m.url), i, m.of)
		args := []string{strconv.Itoa(i), expected, strconv.FormatInt(s.ttl.Milliseconds(), 10), message}
		if err := marking.Exec(ctx, s.client, keys, args).Error(); err != nil {
			return err
		}
	}
	return nil
}

// withPath returns the URL as hipache announces it: with a path.
func withPath(text string) string {
	if u, err := url.Parse(text); err == nil && u.Path == "" {
		u.Path = "/"
		return u.String()
	}
	return text
}
