-- Version 4 of the schema, without its comments.
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
