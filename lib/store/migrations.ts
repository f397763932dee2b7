/** On `CHANNEL`: someone other than a node changed tokens, and the event is in the outbox. */
export const EVENTS_WAITING = '!'

/** The setting of a transaction that has its origin, as encoded by `writes.ts`. */
export const ORIGIN = 'mmc_tokens.origin'

/** The channel of changes; one for all schemas, since a hash of another schema has no effect. */
export const CHANNEL = 'mmc_tokens'

/**
 * SQL for a name as it looks: without invisible characters, spaces in a row as one, in NFC. Part of migration 3, so it
 * never changes. Postgres has no classes for the characters: `Default_Ignorable_Code_Point`; `Zs`, line and paragraph
 * separators, the braille blank.
 */
export const nameKey = (name: string): string => `pg_catalog.normalize(pg_catalog.btrim(pg_catalog.regexp_replace(
  pg_catalog.regexp_replace(${name}, E'[\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f'
    '\\u202a-\\u202e\\u2060-\\u206f\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufff8\\U0001bca0-\\U0001bca3'
    '\\U0001d173-\\U0001d17a\\U000e0000-\\U000e0fff]', '', 'g'),
  E'[ \\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u2800\\u3000]+', ' ', 'g')), 'NFC')`

/** SQL that puts what happened to a token into the outbox, where `origin` says who did it. Part of migration 3, too. */
const record = (schema: string, type: string, token: string): string => `
      INSERT INTO ${schema}.events (type, hash, name, role, database_user, actor, address, request_id)
      SELECT ${type}, ${token}.hash, left(${token}.name, 1000), left(${token}.role, 1000), session_user,
        left(origin[2], 1000), left(origin[3], 1000), left(origin[4], 1000)`

/**
 * The numbered steps from an empty schema to this version's tables. A released step never changes.
 *
 * Triggers notify `CHANNEL` of the hash of each token that ends or changes, and of `*` for all. They are always on, so
 * that replicated changes are reported, too. They ignore INSERT and `last_used`, which invalidate nothing.
 *
 * `events` is the outbox. Triggers write an event in the transaction of the change, with the rights of the owner, so
 * that the role that makes the change needs none on `events`. An error there would fail the change, so texts are cut,
 * and `seq` is not unique: a sequence may be behind replicated rows. A node sets its origin in `ORIGIN`; changes by
 * others are notified as `EVENTS_WAITING`. Under row level security, the policy on `events` leaves access to grants,
 * and the one on `tokens` lets a TRUNCATE read the rows it deletes. Replicated inserts are not reported, replicated
 * deletes are.
 *
 * A trigger sets `name_key`, so that it is right for inserts by nodes of the previous version and for names that SQL
 * changes. Existing rows keep their names, and get a key only if it differs from the name: writing all rows would take
 * too long. If names look alike, one row gets the key, and the others get a key that no name can have.
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

  CREATE FUNCTION ${schema}.record_end() RETURNS trigger LANGUAGE plpgsql
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DECLARE
    origin text := nullif(current_setting('${ORIGIN}', true), '');
  BEGIN
    IF TG_OP = 'TRUNCATE' THEN
      INSERT INTO ${schema}.ended (hash, name, role, origin) SELECT hash, name, role, origin FROM ${schema}.tokens;
    ELSE
      INSERT INTO ${schema}.ended (hash, name, role, origin) VALUES (OLD.hash, OLD.name, OLD.role, origin);
    END IF;
    IF origin IS NULL THEN
      PERFORM pg_notify('${CHANNEL}', '${EVENTS_WAITING}');
    END IF;
    RETURN NULL;
  END $$;
  CREATE TRIGGER record_end AFTER DELETE ON ${schema}.tokens FOR EACH ROW EXECUTE FUNCTION ${schema}.record_end();
  CREATE TRIGGER record_truncate BEFORE TRUNCATE ON ${schema}.tokens
    FOR EACH STATEMENT EXECUTE FUNCTION ${schema}.record_end();
`, `
  ALTER TABLE ${schema}.tokens ADD COLUMN name_key text COLLATE "C";

  UPDATE ${schema}.tokens AS token SET name_key = key || CASE
    WHEN place = 1 AND NOT EXISTS (SELECT FROM ${schema}.tokens WHERE name = key) THEN ''
    ELSE pg_catalog.chr(1) || hash END
  FROM (
    SELECT hash AS id, key, row_number() OVER (PARTITION BY key ORDER BY issue_date, hash) AS place
    FROM (SELECT hash, name, issue_date, ${nameKey('name')} COLLATE "C" AS key FROM ${schema}.tokens) AS looks
    WHERE key <> name
  ) AS old WHERE hash = id;
  CREATE UNIQUE INDEX tokens_name_looks ON ${schema}.tokens ((coalesce(name_key, name)));

  CREATE FUNCTION ${schema}.set_name_key() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    -- What is restored from a dump has its key.
    IF TG_OP = 'UPDATE' OR NEW.name_key IS NULL THEN
      NEW.name_key := ${nameKey('NEW.name')};
    END IF;
    RETURN NEW;
  END $$;
  CREATE TRIGGER set_name_key BEFORE INSERT OR UPDATE OF name ON ${schema}.tokens
    FOR EACH ROW EXECUTE FUNCTION ${schema}.set_name_key();

  CREATE TABLE ${schema}.events (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    seq bigint GENERATED BY DEFAULT AS IDENTITY,
    type text NOT NULL,
    at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    hash text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, role text NOT NULL,
    database_user text, actor text, address text, request_id text,
    attempts integer NOT NULL DEFAULT 0,
    claimed_until timestamptz NOT NULL DEFAULT now()
  );
  CREATE INDEX events_seq ON ${schema}.events (seq);
  CREATE POLICY by_grant ON ${schema}.events USING (true);
  CREATE POLICY owner_reads ON ${schema}.tokens FOR SELECT USING (pg_catalog.pg_has_role((SELECT relowner
    FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) '${schema}.tokens'::pg_catalog.regclass), 'MEMBER'));

  INSERT INTO ${schema}.events (type, at, hash, name, role, actor, address, request_id)
  SELECT CASE origin WHEN '{"isPurged":true}' THEN 'token.expired-purged' ELSE 'token.revoked' END,
    ended_at, hash, name, role,
    ${['actor', 'address', 'requestId'].map(key => `substring(origin FROM '"${key}":"(([^"\\\\]|\\\\.)*)"')`).join()}
  FROM ${schema}.ended ORDER BY ended_at;
  DROP TRIGGER record_end ON ${schema}.tokens;
  DROP TRIGGER record_truncate ON ${schema}.tokens;
  DROP FUNCTION ${schema}.record_end();
  DROP TABLE ${schema}.ended;

  CREATE FUNCTION ${schema}.record_event() RETURNS trigger LANGUAGE plpgsql
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DECLARE
    origin text[] := string_to_array(current_setting('${ORIGIN}', true), chr(31), '');
  BEGIN
    IF TG_RELID <> '${schema}.tokens'::regclass THEN
      RAISE EXCEPTION 'this function is for the triggers of one table';
    END IF;
    IF TG_OP = 'INSERT' THEN
      ${record(schema, "'token.issued'", 'NEW')};
    ELSIF TG_OP = 'TRUNCATE' THEN
      ${record(schema, "'token.revoked'", 'token')} FROM ${schema}.tokens AS token;
    ELSE
      -- Nobody passes a revocation off as a purge.
      ${record(schema, `CASE WHEN origin[1] = 'purge' AND OLD.valid_until <= now()
        THEN 'token.expired-purged' ELSE 'token.revoked' END`, 'OLD')};
    END IF;
    IF origin[1] IS NULL THEN
      PERFORM pg_notify('${CHANNEL}', '${EVENTS_WAITING}');
    END IF;
    RETURN NULL;
  END $$;
  REVOKE EXECUTE ON FUNCTION ${schema}.record_event() FROM PUBLIC;
  CREATE TRIGGER record_issue AFTER INSERT ON ${schema}.tokens
    FOR EACH ROW EXECUTE FUNCTION ${schema}.record_event();
  CREATE TRIGGER record_end AFTER DELETE ON ${schema}.tokens
    FOR EACH ROW EXECUTE FUNCTION ${schema}.record_event();
  CREATE TRIGGER record_truncate BEFORE TRUNCATE ON ${schema}.tokens
    FOR EACH STATEMENT EXECUTE FUNCTION ${schema}.record_event();
  ALTER TABLE ${schema}.tokens ENABLE ALWAYS TRIGGER record_end;
  ALTER TABLE ${schema}.tokens ENABLE ALWAYS TRIGGER record_truncate;
`]
