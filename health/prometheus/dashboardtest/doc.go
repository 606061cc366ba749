// Package dashboardtest contains only tests. They check the Grafana dashboard of package prometheus
// against Grafana's schema, and run its queries in a Prometheus that has scraped pools with
// traffic. It is a module of its own because nobody else needs Grafana's schema.
package dashboardtest
