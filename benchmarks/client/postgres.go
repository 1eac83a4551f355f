package main

import (
	"context"
	"database/sql"
	"fmt"
	"net"

	_ "github.com/lib/pq"
)

// upsert reads, decides and writes in one statement: a new triplet is deferred, one that waited passes.
const upsert = `
INSERT INTO greylist (key, first, last, passed) VALUES ($1, now(), now(), false)
ON CONFLICT (key) DO UPDATE SET last = now(),
  passed = greylist.passed OR now() - greylist.first >= interval '5 minutes'
RETURNING passed`

// postgres has a connection to the primary of its own.
type postgres struct{ statement *sql.Stmt }

func openPostgres(o options) ([]checker, error) {
	host, port, err := net.SplitHostPort(o.endpoints[0])
	if err != nil {
		return nil, err
	}
	checkers := make([]checker, o.inFlight)
	for i := range checkers {
		database, err := sql.Open("postgres", fmt.Sprintf(
			"host=%s port=%s user=postgres dbname=postgres sslmode=verify-ca sslrootcert=%s sslcert=%s sslkey=%s",
			host, port, o.ca, o.cert, o.key))
		if err != nil {
			return nil, err
		}
		database.SetMaxOpenConns(1)
		statement, err := database.Prepare(upsert)
		if err != nil {
			return nil, err
		}
		checkers[i] = &postgres{statement}
	}
	return checkers, nil
}

func (p *postgres) check(ctx context.Context, keys []string) (int, error) {
	conflicts := 0
	for _, key := range keys {
		var passed bool
		if err := p.statement.QueryRowContext(ctx, key).Scan(&passed); err != nil {
			return 0, err
		}
		if passed { // every key is new
			conflicts++
		}
	}
	return conflicts, nil
}
