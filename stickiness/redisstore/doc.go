// Package redisstore keeps learned sessions in Redis, for several balancers. It implements
// [github.com/stickylb/stickylb/stickiness.Store].
package redisstore
