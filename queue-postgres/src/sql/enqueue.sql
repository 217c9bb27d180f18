-- Inserts jobs of which some have a unique key; see the function.
SELECT made, job FROM {s}.enqueue($1::bigint, $2::uuid[], $3::text[], $4::text[], $5::integer[],
    $6::bigint[], $7::bigint[], $8::bigint[], $9::smallint[], $10::text[], $11::bigint[], $12::text[],
    $13::smallint[], $14::smallint[], $15::text[], $16::text[])
