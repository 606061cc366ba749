package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/stickylb/stickylb/examples/internal/commandline"
)

// options are the values of the flags.
type options struct {
	api          string
	hosts        []string
	listenHost   string
	offset       int
	instances    instances // nil: the embedded ones
	certificates string
	state        string
	key, secret  string   // empty: any signature passes
	other        *url.URL // nil: no other emulator
}

const about = `elb is a Classic Load Balancer on this machine: the AWS CLI configures it, and its traffic obeys.

`

// parse parses the command line.
func parse(args []string, help io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("elb", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.api, "api", "127.0.0.1:8000", "address of the API and of the console page")
	f.Func("api-host", "`name` by which clients may ask for the API, besides loopback names and its address; may be repeated", func(name string) error {
		o.hosts = append(o.hosts, name)
		return nil
	})
	f.Func("instance", "an instance, as `ID=HOST[:PORT][@ZONE]`; without a port it listens on each listener's InstancePort; may be repeated; none: three embedded ones", o.addInstance)
	f.StringVar(&o.listenHost, "listen-host", "127.0.0.1", "host on which the listeners listen")
	f.IntVar(&o.offset, "port-offset", 8000, "added to each LoadBalancerPort: 80 is port 8080 here")
	f.StringVar(&o.certificates, "certificates", "", "`directory` of the certificates: NAME.pem, with its key, for arn:...:server-certificate/NAME; none: self-signed ones")
	f.StringVar(&o.state, "state", "", "`file` of the whole configuration; none: it is forgotten at the end")
	f.StringVar(&o.secret, "access-key", "", "`ID:SECRET` with which calls have to be signed; none: any signature passes, and -api has to be a loopback address")
	f.Func("other", "`URL` of an emulator that gets the calls of other versions and services", o.setOther)
	if err := commandline.Parse(f, args, help, about); err != nil {
		return nil, err
	}
	if err := o.splitKey(); err != nil {
		return nil, err
	}
	return o, o.validate()
}

func (o *options) addInstance(text string) error {
	i, err := parseInstance(text)
	if err != nil {
		return err
	}
	if _, ok := o.instances[i.id]; ok {
		return errors.New("the instance is there twice")
	}
	if o.instances == nil {
		o.instances = make(instances)
	}
	o.instances[i.id] = i
	return nil
}

// splitKey reads the access key. Its errors do not show it.
func (o *options) splitKey() error {
	if o.secret == "" {
		return nil
	}
	key, secret, ok := strings.Cut(o.secret, ":")
	if !ok || key == "" || secret == "" || strings.Contains(key, "/") {
		return errors.New("-access-key is not ID:SECRET")
	}
	o.key, o.secret = key, secret
	return nil
}

func (o *options) setOther(text string) (err error) {
	if o.other, err = url.Parse(text); err == nil && (o.other.Host == "" || o.other.Scheme != "http" && o.other.Scheme != "https") {
		err = errors.New("it is not the URL of a server")
	}
	return err
}

func (o *options) validate() error {
	host, _, err := net.SplitHostPort(o.api)
	switch {
	case err != nil:
		return fmt.Errorf("-api: %w", err)
	case o.key == "" && !loopback(host):
		return fmt.Errorf("-api %s can be reached from elsewhere: give an -access-key", o.api)
	case o.offset < 0 || o.offset > 65534:
		return errors.New("-port-offset is not between 0 and 65534")
	}
	if o.certificates != "" {
		if s, err := os.Stat(o.certificates); err != nil || !s.IsDir() {
			return fmt.Errorf("-certificates: %s is not a directory", o.certificates)
		}
	}
	return nil
}
