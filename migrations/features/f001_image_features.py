"""Features of images as half-precision vectors (pgvector)."""

from alembic import op

revision = "f001"
down_revision = None
branch_labels = None
depends_on = None

IMAGE_FEATURES = """
CREATE TABLE image_features (
    image_id bigint PRIMARY KEY,
    feature halfvec NOT NULL,
    CONSTRAINT image_features_image_id_fkey FOREIGN KEY (image_id)
        REFERENCES images (id) ON DELETE CASCADE
)
"""


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.execute(IMAGE_FEATURES)
    # A feature of 1,280 half-floats would go to TOAST, and a pool of 200 cost five times as much.
    op.execute("ALTER TABLE image_features ALTER COLUMN feature SET STORAGE MAIN")
    op.execute("COMMENT ON TABLE image_features IS 'The fine stage: a float vector for each image'")


def downgrade() -> None:
    op.execute("DROP TABLE image_features")
