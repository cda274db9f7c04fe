-- The schema of preauth, for MySQL 8.0 and later, MariaDB 10.6 and later, and TiDB.
--
-- On an empty database "preauth schema apply" runs it, and so does "preauth serve" if it is told to. On
-- tables of an older release they run what those lack, which "preauth schema status" shows; running this
-- file there is not enough. Every statement can be repeated at any time. All times but that of a migration
-- are UTC from the service's clock, never from the server, so the session's time zone does not matter.
-- Component_access_tokens are never stored, only their SHA-256.
--
-- The row format is stated because servers have other defaults, which allow shorter keys only. The keys
-- fit into pages of 8 KiB, where the limit is 1,536 bytes.

-- One row for each component that a valid token event ever named. A saving transaction locks it first,
-- so transactions about one component run one after the other.
--
-- Components in trouble:
--   SELECT appid, attempts, due_at, failure FROM component WHERE failure IS NOT NULL
CREATE TABLE IF NOT EXISTS component (
  appid                VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'component_appid',
  revision             BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'of the newest code; counts the codes and only grows',
  token_stream         VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '' COMMENT 'the newest token event taken: its stream',
  token_stream_created DATETIME(6)  NULL COMMENT 'when that stream was created: a stream created anew counts from 1 again',
  token_sequence       BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'its sequence in the stream',
  token_time           DATETIME(6)  NULL COMMENT 'when the stream took it',
  token_fingerprint    BINARY(32)   NULL COMMENT 'SHA-256 of its token',
  token_expires_at     DATETIME(6)  NULL COMMENT 'when its token dies',
  attempts             INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'failed calls of WeChat since the last code or token event',
  due_at               DATETIME(6)  NULL COMMENT 'when the component is worked on next, to renew or to try again; NULL: not before a newer token',
  lease                BINARY(16)   NULL COMMENT 'the call of a replica that works on the component until due_at, unless it dies; NULL: none',
  failure              MEDIUMTEXT   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'the last failure as announced on preauth.failed, JSON; NULL after a success',
  created_at           DATETIME(6)  NOT NULL,
  updated_at           DATETIME(6)  NOT NULL,
  PRIMARY KEY (appid),
  KEY due (due_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC COMMENT = 'preauth: the components and the newest token taken for each';

-- Every saved code, until some time after it expired. A code keeps its kind for good:
--
-- A code with a revision is announced. The current code of a component has no deleted_at and therefore
-- slot 0, and the unique key allows one slot 0 per component. The retired codes have the slots behind it,
-- the newest first. This order matters to InnoDB, which locks the gaps on both sides of an entry that is
-- replaced: the gaps then lie within the component, and transactions about others do not wait for them.
--
-- A code without a revision is never announced. It is a spare until a claim gets it. The unique key
-- allows a claim id one code that is not deleted.
--
-- A code with an authorized_at is spent: nobody gets it any more. A spare that is spent is one no
-- longer, but used.
--
-- The current codes, and the spares:
--   SELECT appid, revision, cause, issued_at, expires_at, authorized_at FROM pre_auth_code WHERE slot = 0
--   SELECT appid, issued_at, expires_at FROM pre_auth_code WHERE cause = 'spare' AND expires_at > UTC_TIMESTAMP()
CREATE TABLE IF NOT EXISTS pre_auth_code (
  id                BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  appid             VARCHAR(64)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'component_appid',
  revision          BIGINT UNSIGNED NULL COMMENT 'as announced; NULL: never announced',
  code              VARBINARY(512) NOT NULL COMMENT 'the pre_auth_code; compared byte for byte',
  cause             VARCHAR(16)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'what it was made for: token, renewal, demand, spent; or without a revision: spare, claim, used',
  token_fingerprint BINARY(32)     NOT NULL COMMENT 'SHA-256 of the token it was made with',
  issued_at         DATETIME(6)    NOT NULL,
  expires_at        DATETIME(6)    NOT NULL,
  deleted_at        DATETIME(6)    NULL COMMENT 'when a newer code replaced it, for the component or for the claim id',
  claim_id          VARBINARY(512)  NULL COMMENT 'the claim it was given to, up to 128 characters of UTF-8; compared byte for byte',
  reference         VARBINARY(1024) NULL COMMENT 'what the claim refers to, up to 256 characters of UTF-8',
  claimed_at        DATETIME(6)    NULL,
  slot              BIGINT UNSIGNED GENERATED ALWAYS AS (CASE WHEN revision IS NULL THEN NULL WHEN deleted_at IS NULL THEN CAST(0 AS UNSIGNED) ELSE ~revision END) STORED
                    COMMENT '0: the current code',
  live_claim        VARBINARY(512) GENERATED ALWAYS AS (CASE WHEN deleted_at IS NULL THEN claim_id END) STORED
                    COMMENT 'the claim_id whose newest code it is',
  authorizer_appid  VARCHAR(64)    CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'the account that authorized with it',
  authorized_at     DATETIME(6)    NULL COMMENT 'when it did; NULL: not spent',
  PRIMARY KEY (id),
  UNIQUE KEY code (code),
  UNIQUE KEY current_code (appid, slot),
  UNIQUE KEY live_claim (appid, live_claim),
  KEY spare (appid, cause, expires_at),
  KEY expires (expires_at),
  CONSTRAINT pre_auth_code_kinds CHECK ((revision IS NULL) = (cause IN ('spare', 'claim', 'used'))),
  CONSTRAINT pre_auth_code_claim CHECK ((claim_id IS NOT NULL) = (cause = 'claim'))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC COMMENT = 'preauth: the codes; each component has one current code';

-- Announcements that are committed but not known to be published. A row is deleted once the stream has
-- stored its message. Rows that stay mean that NATS does not take them.
CREATE TABLE IF NOT EXISTS outbox (
  message_id VARCHAR(350) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'Nats-Msg-Id; the same however often it is saved or announced',
  appid      VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'component_appid; empty for an event that names no valid one',
  revision   BIGINT UNSIGNED NULL COMMENT 'an update: the code is pre_auth_code''s with this revision',
  failure    MEDIUMTEXT   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'a failure: the body, JSON',
  created_at DATETIME(6)  NOT NULL,
  authorized  MEDIUMTEXT  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'an authorization: the body, JSON',
  traceparent VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'the W3C trace context to publish it with',
  PRIMARY KEY (message_id),
  KEY created (created_at, revision),
  CONSTRAINT outbox_kinds CHECK ((revision IS NOT NULL) + (failure IS NOT NULL) + (authorized IS NOT NULL) = 1)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC COMMENT = 'preauth: announcements not yet known to be published';

-- The streams that the database belongs to: one row. Two services with streams of their own would record
-- what the other cannot know, so a service whose streams are others does not use the database.
CREATE TABLE IF NOT EXISTS stream_set (
  id             TINYINT UNSIGNED NOT NULL COMMENT 'always 1',
  token_stream   VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  update_stream  VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  failure_stream VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  account        VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'the NATS account they are in; empty where it could not be told',
  since          DATETIME(6)  NOT NULL COMMENT 'when the database was taken over',
  PRIMARY KEY (id),
  CONSTRAINT stream_set_is_one CHECK (id = 1)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC COMMENT = 'preauth: the streams that the database belongs to';

-- The migrations that the tables have, one row each. A program works with the tables if it is made for
-- the largest oldest_program, or for a later version.
CREATE TABLE IF NOT EXISTS schema_version (
  version        INT UNSIGNED NOT NULL COMMENT 'of the schema: the number of the migration, counted from 1',
  oldest_program INT UNSIGNED NOT NULL COMMENT 'the version of the oldest programs that work with the tables after it',
  name           VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'what it brought',
  applied_at     DATETIME(6)  NOT NULL COMMENT 'when it was recorded, UTC',
  PRIMARY KEY (version)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC COMMENT = 'preauth: the migrations that the tables have';

-- Recorded last, when all of it is there.
INSERT IGNORE INTO schema_version (version, oldest_program, name, applied_at) VALUES
  (1, 1, 'components, codes and announcements', UTC_TIMESTAMP(6)),
  (2, 1, 'shorter message ids', UTC_TIMESTAMP(6)),
  (3, 1, 'the streams that the database belongs to', UTC_TIMESTAMP(6)),
  (4, 1, 'spent codes and trace contexts', UTC_TIMESTAMP(6)),
  (5, 1, 'the version of the schema', UTC_TIMESTAMP(6));
