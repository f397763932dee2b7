/** On `CHANNEL`: tokens ended without us, and wait to be told of. */
export const ENDED = '!'

/** A setting of a transaction: who ends tokens in it, as JSON. */
export const ORIGIN = 'mmc_tokens.origin'

/** Hears of ended and changed tokens; one for all schemas, since a hash of another schema means nothing to us. */
export const CHANNEL = 'mmc_tokens'

/**
 * The numbered steps from an empty schema to this version's tables; number 1 is the first. A step that was released is never changed.
 *
 * `CHANNEL` hears of every token that ends or changes by its hash, and of all of them at once as `*`. The trigger is always on, so that
 * rows changed by replication are heard of too. It is silent on INSERT and `last_used`: what nobody believes yet, nobody must forget.
 *
 * `ended` holds each token that ended until one node has told of it. Who ends one through us says so in a setting of the transaction
 * (`ORIGIN`); of all others the channel hears by `ENDED`. Whoever deletes needs no rights on it.
 */
export const migrations = (schema: string): string[] => [`
  CREATE TABLE ${schema}.migrations (number integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now());

  CREATE TABLE ${schema}.tokens (
    hash text COLLATE "C" PRIMARY KEY CHECK (hash ~ '^[0-9a-f]{64}$'),
    name text COLLATE "C" NOT NULL UNIQUE,
    role text NOT NULL,
    requested_by text NOT NULL,
    issue_date timestamptz(3) NOT NULL,
    valid_until timestamptz(0) NOT NULL CHECK (valid_until BETWEEN '1970-01-01Z' AND '9999-12-31 23:59:59Z'),
    last_used timestamptz(3) NOT NULL
  );
  CREATE INDEX tokens_issue_date_hash ON ${schema}.tokens (issue_date, hash);

  CREATE FUNCTION ${schema}.notify_token_change() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF TG_OP = 'TRUNCATE' THEN
      PERFORM pg_catalog.pg_notify('${CHANNEL}', '*');
    ELSE
      PERFORM pg_catalog.pg_notify('${CHANNEL}', OLD.hash);
    END IF;
    RETURN NULL;
  END $$;
  CREATE TRIGGER notify_change AFTER DELETE OR UPDATE OF hash, name, role, valid_until ON ${schema}.tokens
    FOR EACH ROW EXECUTE FUNCTION ${schema}.notify_token_change();
  CREATE TRIGGER notify_truncate AFTER TRUNCATE ON ${schema}.tokens
    FOR EACH STATEMENT EXECUTE FUNCTION ${schema}.notify_token_change();
  ALTER TABLE ${schema}.tokens ENABLE ALWAYS TRIGGER notify_change;
  ALTER TABLE ${schema}.tokens ENABLE ALWAYS TRIGGER notify_truncate;
`, `
  CREATE INDEX tokens_valid_until ON ${schema}.tokens (valid_until);

  CREATE TABLE ${schema}.bootstrapped (hash text COLLATE "C" PRIMARY KEY);

  CREATE TABLE ${schema}.ended (
    hash text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    role text NOT NULL,
    ended_at timestamptz(3) NOT NULL DEFAULT now(),
    origin text
  );

  CREATE FUNCTION ${schema}.record_end() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DECLARE
    origin text := nullif(current_setting('${ORIGIN}', true), '');
  BEGIN
    IF TG_OP = 'TRUNCATE' THEN
      INSERT INTO ${schema}.ended (hash, name, role, origin) SELECT hash, name, role, origin FROM ${schema}.tokens;
    ELSE
      INSERT INTO ${schema}.ended (hash, name, role, origin) VALUES (OLD.hash, OLD.name, OLD.role, origin);
    END IF;
    IF origin IS NULL THEN
      PERFORM pg_notify('${CHANNEL}', '${ENDED}');
    END IF;
    RETURN NULL;
  END $$;
  CREATE TRIGGER record_end AFTER DELETE ON ${schema}.tokens FOR EACH ROW EXECUTE FUNCTION ${schema}.record_end();
  CREATE TRIGGER record_truncate BEFORE TRUNCATE ON ${schema}.tokens FOR EACH STATEMENT EXECUTE FUNCTION ${schema}.record_end();
`]
