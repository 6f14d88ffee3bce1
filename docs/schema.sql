-- All migrations together, as pg_dump of PostgreSQL 18 shows them. Written by
-- `python -m tests.schema_snapshot`; a test holds it against the migrations.

CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;

CREATE FUNCTION public.explain_search(encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint, k integer DEFAULT 10, radius integer DEFAULT NULL::integer, labels text[] DEFAULT NULL::text[], metadata jsonb DEFAULT NULL::jsonb, max_candidates bigint DEFAULT NULL::bigint, max_ms double precision DEFAULT NULL::double precision, OUT plan text, OUT shells integer, OUT probes bigint, OUT candidates bigint, OUT hits integer, OUT exact boolean, OUT guaranteed_radius integer, OUT milliseconds double precision) RETURNS record
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path TO '$user', 'public'
    AS $$
DECLARE
    started timestamptz := clock_timestamp();
BEGIN
    SELECT run.plan, run.shells, run.probes, run.candidates,
           cardinality(run.ids), run.exact, run.guaranteed_radius
    INTO plan, shells, probes, candidates, hits, exact, guaranteed_radius
    FROM run_search(encoder, q1, q2, q3, q4, k, radius, labels, metadata,
                    max_candidates, max_ms, 0) AS run;
    milliseconds := extract(epoch FROM clock_timestamp() - started) * 1000;
END
$$;

CREATE FUNCTION public.hamming_distance(a1 bigint, a2 bigint, a3 bigint, a4 bigint, b1 bigint, b2 bigint, b3 bigint, b4 bigint) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((((bit_count(((a1 # b1))::bit(64)) + bit_count(((a2 # b2))::bit(64))) + bit_count(((a3 # b3))::bit(64))) + bit_count(((a4 # b4))::bit(64))))::integer;

COMMENT ON FUNCTION public.hamming_distance(a1 bigint, a2 bigint, a3 bigint, a4 bigint, b1 bigint, b2 bigint, b3 bigint, b4 bigint) IS 'Hamming distance of two codes of four words';

CREATE FUNCTION public.hammingdistance(q1 bigint, q2 bigint, q3 bigint, q4 bigint, code_1 bigint, code_2 bigint, code_3 bigint, code_4 bigint) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((((bit_count(((q1 # code_1))::bit(64)) + bit_count(((q2 # code_2))::bit(64))) + bit_count(((q3 # code_3))::bit(64))) + bit_count(((q4 # code_4))::bit(64))))::integer;

COMMENT ON FUNCTION public.hammingdistance(q1 bigint, q2 bigint, q3 bigint, q4 bigint, code_1 bigint, code_2 bigint, code_3 bigint, code_4 bigint) IS 'hamming_distance under its MySQL-era name';

CREATE FUNCTION public.run_search(encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint, k integer, radius integer, labels text[], metadata jsonb, max_candidates bigint, max_ms double precision, ties integer, OUT ids bigint[], OUT distances integer[], OUT exact boolean, OUT guaranteed_radius integer, OUT plan text, OUT shells integer, OUT probes bigint, OUT candidates bigint) RETURNS record
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path TO '$user', 'public'
    AS $_$
DECLARE
    found encoders%ROWTYPE;
BEGIN
    SELECT * INTO found FROM encoders WHERE name = encoder;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'There is no encoder %.', quote_literal(encoder) USING
            ERRCODE = 'RD001', HINT = 'SELECT name FROM encoders shows those there are.';
    END IF;
    IF k IS NULL AND radius IS NULL THEN
        RAISE EXCEPTION 'Give k, a radius or both.' USING ERRCODE = 'RD003';
    END IF;
    IF k < 1 OR radius < 0 THEN
        RAISE EXCEPTION 'k must be at least 1 and the radius at least 0.' USING ERRCODE = 'RD003';
    END IF;
    IF found.bits < 256 AND (q1 | q2 | q3 | q4) >> (found.bits / 4) <> 0 THEN
        RAISE EXCEPTION 'The query has more than the % bits of encoder %.',
            found.bits, quote_literal(encoder) USING ERRCODE = 'RD002';
    END IF;
    EXECUTE $scan$
        SELECT array_agg(hit.id ORDER BY hit.distance, hit.id),
               array_agg(hit.distance ORDER BY hit.distance, hit.id)
        FROM (
            SELECT id, hamming_distance(code_1, code_2, code_3, code_4, $2, $3, $4, $5) AS distance
            FROM images
            WHERE encoder_id = $1
              AND ($7 IS NULL
                   OR hamming_distance(code_1, code_2, code_3, code_4, $2, $3, $4, $5) <= $7)
              AND ($8 IS NULL OR label = ANY ($8))
              AND ($9 IS NULL OR metadata @> $9)
            ORDER BY distance, id
            LIMIT $6
        ) AS hit
    $scan$
    INTO ids, distances
    USING found.id, q1, q2, q3, q4, k + greatest(ties - k, 0), radius, labels, metadata;
    ids := coalesce(ids, '{}');
    distances := coalesce(distances, '{}');
    IF cardinality(ids) > k THEN
        ids := ids[1 : (SELECT count(*) FROM unnest(distances) AS d WHERE d <= distances[k])];
        distances := distances[1 : cardinality(ids)];
    END IF;
    exact := true;
    guaranteed_radius := found.bits;
    plan := 'scan';
    shells := 0;
    probes := 0;
END
$_$;

CREATE TABLE public.images (
    id bigint NOT NULL,
    encoder_id integer NOT NULL,
    bits smallint NOT NULL,
    code_1 bigint NOT NULL,
    code_2 bigint NOT NULL,
    code_3 bigint NOT NULL,
    code_4 bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    path text NOT NULL,
    label text,
    content_sha256 bytea,
    metadata jsonb,
    CONSTRAINT images_code_check CHECK (((bits = 256) OR (((((code_1 | code_2) | code_3) | code_4) >> (bits / 4)) = 0))),
    CONSTRAINT images_content_sha256_check CHECK ((octet_length(content_sha256) = 32))
);

COMMENT ON TABLE public.images IS 'retrieval-db: one row for each image and encoder';

COMMENT ON COLUMN public.images.code_1 IS 'bits 0 to L/4-1, most significant first';

CREATE FUNCTION public.search_codes(encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint, k integer DEFAULT 10, radius integer DEFAULT NULL::integer, labels text[] DEFAULT NULL::text[], metadata jsonb DEFAULT NULL::jsonb, max_candidates bigint DEFAULT NULL::bigint, max_ms double precision DEFAULT NULL::double precision) RETURNS TABLE(rank bigint, image_id bigint, path text, label text, distance integer, exact boolean, guaranteed_radius integer)
    LANGUAGE sql STABLE PARALLEL RESTRICTED
    SET search_path TO '$user', 'public'
    BEGIN ATOMIC
 SELECT hit.rank,
     image.id,
     image.path,
     image.label,
     hit.distance,
     run.exact,
     run.guaranteed_radius
    FROM public.run_search(search_codes.encoder, search_codes.q1, search_codes.q2, search_codes.q3, search_codes.q4, search_codes.k, search_codes.radius, search_codes.labels, search_codes.metadata, search_codes.max_candidates, search_codes.max_ms, 0) run(ids, distances, exact, guaranteed_radius, plan, shells, probes, candidates),
     (LATERAL UNNEST(run.ids, run.distances) WITH ORDINALITY hit(id, distance, rank)
      JOIN public.images image ON ((image.id = hit.id)))
   ORDER BY hit.rank;
END;

CREATE FUNCTION public.search_images(encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint, feature public.halfvec, k integer DEFAULT 10, radius integer DEFAULT NULL::integer, labels text[] DEFAULT NULL::text[], metadata jsonb DEFAULT NULL::jsonb, pool integer DEFAULT 200, pool_max integer DEFAULT NULL::integer, metric text DEFAULT 'cosine'::text, max_candidates bigint DEFAULT NULL::bigint, max_ms double precision DEFAULT NULL::double precision) RETURNS TABLE(rank bigint, image_id bigint, path text, label text, distance integer, feature_distance double precision, pool_exact boolean, guaranteed_radius integer, pool_size integer, tie_whole boolean)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path TO '$user', 'public'
    AS $$
#variable_conflict use_column
DECLARE
    coarse record;
    most integer := coalesce(search_images.pool_max, 10 * search_images.pool);
    size integer;
    whole boolean := true;
BEGIN
    IF metric NOT IN ('cosine', 'l2') THEN
        RAISE EXCEPTION 'metric is ''cosine'' or ''l2'', not %.', quote_literal(metric)
            USING ERRCODE = 'RD003';
    END IF;
    IF most < pool THEN
        RAISE EXCEPTION 'pool_max (%) is smaller than pool (%).', most, pool
            USING ERRCODE = 'RD003';
    END IF;
    -- One row beyond pool_max tells whether the last tie is whole.
    SELECT * INTO coarse FROM run_search(
        encoder, q1, q2, q3, q4, search_images.pool, search_images.radius, search_images.labels,
        search_images.metadata, max_candidates, max_ms, most + 1);
    size := least(cardinality(coarse.ids), most);
    whole := cardinality(coarse.ids) <= most;
    RETURN QUERY
    SELECT row_number() OVER (ORDER BY fine.away, fine.distance, fine.id), fine.id, image.path,
           image.label, fine.distance, fine.away, coarse.exact, coarse.guaranteed_radius,
           size, whole
    FROM (
        SELECT hit.id, hit.distance,
               CASE metric WHEN 'l2' THEN stored.feature <-> search_images.feature
                           ELSE stored.feature <=> search_images.feature END AS away
        FROM unnest(coarse.ids[1 : size], coarse.distances[1 : size]) AS hit(id, distance)
        JOIN image_features AS stored ON stored.image_id = hit.id
        ORDER BY away, hit.distance, hit.id
        LIMIT search_images.k
    ) AS fine
    JOIN images AS image ON image.id = fine.id
    ORDER BY 1;
END
$$;

CREATE TABLE public.encoders (
    id integer NOT NULL,
    name text NOT NULL,
    bits smallint NOT NULL,
    feature_dim integer,
    config jsonb DEFAULT '{}'::jsonb NOT NULL,
    fingerprint text NOT NULL,
    artifact bytea,
    root text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT encoders_bits_check CHECK ((((bits >= 4) AND (bits <= 256)) AND (((bits)::integer % 4) = 0))),
    CONSTRAINT encoders_name_check CHECK ((name <> ''::text))
);

COMMENT ON TABLE public.encoders IS 'What makes hash codes: one row for each encoder';

COMMENT ON COLUMN public.encoders.bits IS 'code length L';

COMMENT ON COLUMN public.encoders.config IS 'everything but the weights that codes depend on';

COMMENT ON COLUMN public.encoders.fingerprint IS 'SHA-256 over config and weights';

COMMENT ON COLUMN public.encoders.artifact IS 'safetensors: every weight that is not a published backbone';

COMMENT ON COLUMN public.encoders.root IS 'the folder that relative paths of its images start from';

ALTER TABLE public.encoders ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.encoders_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.image_features (
    image_id bigint NOT NULL,
    feature public.halfvec NOT NULL
);
ALTER TABLE ONLY public.image_features ALTER COLUMN feature SET STORAGE MAIN;

COMMENT ON TABLE public.image_features IS 'The fine stage: a float vector for each image';

ALTER TABLE public.images ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.images_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.retrieval_db_features_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.retrieval_db_version (
    version_num character varying(32) NOT NULL
);

ALTER TABLE ONLY public.encoders
    ADD CONSTRAINT encoders_id_bits_key UNIQUE (id, bits);

ALTER TABLE ONLY public.encoders
    ADD CONSTRAINT encoders_name_key UNIQUE (name);

ALTER TABLE ONLY public.encoders
    ADD CONSTRAINT encoders_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.image_features
    ADD CONSTRAINT image_features_pkey PRIMARY KEY (image_id);

ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_encoder_id_path_key UNIQUE (encoder_id, path);

ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.retrieval_db_features_version
    ADD CONSTRAINT retrieval_db_features_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.retrieval_db_version
    ADD CONSTRAINT retrieval_db_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.image_features
    ADD CONSTRAINT image_features_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_encoder_id_bits_fkey FOREIGN KEY (encoder_id, bits) REFERENCES public.encoders(id, bits);
