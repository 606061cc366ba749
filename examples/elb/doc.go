// Command elb is a Classic Load Balancer on this machine.
package main
