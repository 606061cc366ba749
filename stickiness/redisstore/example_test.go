package redisstore_test

import (
	"log"
	"net/http"
	"time"

	"github.com/redis/rueidis"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/redisstore"
	"github.com/stickylb/stickylb/wsproxy"
)

// Several balancers that run this program share their sessions.
func Example() {
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress:       []string{"redis-1:26379", "redis-2:26379", "redis-3:26379"},
		Sentinel:          rueidis.SentinelOption{MasterSet: "sessions", TopologyRefreshInterval: 5 * time.Second},
		CacheSizeEachConn: 8 << 20,
		ConnWriteTimeout:  time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	store, err := redisstore.New(client, redisstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	policy, err := stickiness.NewLearn(stickiness.LearnOptions{Store: store, Header: "Mcp-Session-Id"})
	if err != nil {
		log.Fatal(err)
	}
	targets, err := balancer.ParseTargets("http://10.0.0.1:8080", "http://10.0.0.2:8080")
	if err != nil {
		log.Fatal(err)
	}
	pool, err := balancer.New(balancer.Config{Targets: targets})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(":8080", &wsproxy.Proxy{Pool: pool, Policy: policy}))
}
